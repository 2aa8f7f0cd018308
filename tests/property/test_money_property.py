"""Whatever becomes of requests, in whatever order and whenever the process dies: the money stays within its limits."""

from collections import deque
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bulkgrok.checkpoint.memory import MemoryStore
from bulkgrok.core.lifecycle import (
    Accept,
    Doubt,
    Expire,
    Fail,
    JobFailed,
    Lose,
    Redeem,
    Redownload,
    Refuse,
    Retry,
    Submit,
    Succeed,
    Unsent,
)
from bulkgrok.core.model import Code, Entry, Item, Mode, RowError, Work
from bulkgrok.core.money import Budget, ticks
from bulkgrok.scheduler.purse import Purse

DOLLARS = st.integers(0, 40).map(lambda cents: cents / 100)
LIMITS = st.one_of(st.none(), *[st.integers(0, 120).map(lambda cents: cents / 100)] * 3)
FEE = 0.05


def fail(row, cost_usd=None):
    return Fail(
        row=row, at=0.0, error=RowError(code=Code.FAILED, message="no"), custom_id="", kind="chat", mode=Mode.DIRECT,
        model="m", digest=b"", cost_usd=cost_usd,
    )  # fmt: skip


class Spending(RuleBasedStateMachine):
    """Rows go through a purse into a store; the store's money is the truth, and the purse hears of it late."""

    @initialize(budget=LIMITS, at_risk=LIMITS, prices=st.lists(st.none() | DOLLARS, min_size=1, max_size=25))
    def begin(self, budget, at_risk, prices):
        self.store = MemoryStore()
        self.store.open()
        self.prices = prices
        self.limits = budget, at_risk
        self.over = 0
        """What requests cost beyond what they could cost at most, in ticks."""
        self.start()

    def start(self):
        """Start a process that finds what the store holds."""
        self.budget = Budget(budget_usd=self.limits[0], max_at_risk_usd=self.limits[1])
        self.budget.money = self.store.money()
        self.purse = Purse(self.budget, lambda: None)
        self.news = deque()
        self.gone, self.sent, self.accepted = [], [], [job.row for job in self.store.jobs()]
        taken, waiting = self.store.taken(), self.store.waiting()
        self.queue = deque(
            Work(item=self.item(row), posts=waiting[row].posts if row in waiting else 0)
            for row in range(len(self.prices))
            if row not in taken
        )
        self.above = [self.passed(number) for number in (0, 1)]

    def passed(self, number):
        """By how much a limit is passed now, in ticks."""
        money, limit = self.store.money(), self.limits[number]
        held = (money.spent + money.on_its_way, money.at_risk)[number]
        return 0 if limit is None else max(0, held - ticks(limit))

    def item(self, row):
        return Item(
            row=row, line=None, custom_id="", kind="chat", mode=Mode.DEFERRED, model="m", stream=False, body=b"",
            digest=b"", max_usd=self.prices[row], tokens=0,
        )  # fmt: skip

    def apply(self, *changes, counted=None):
        self.store.apply(changes)
        self.news.append((self.store.money(), counted))

    # Workers ask

    @rule(workers=st.integers(1, 5))
    def ask(self, workers):
        for _ in range(workers):
            waited, refused = self.purse.waiting, self.budget.refused
            asked = [] if waited is None else [waited]
            work = self.purse.next(partial(self.following, asked))
            aside = [one for one in asked if one is not work and one is not self.purse.waiting]
            assert self.budget.refused - refused == len(aside)
            for one in aside:
                self.never_fits(one.item.max_usd)
            if work is None:
                break
            if waited is not None and self.budget.refused == refused:
                assert work is waited, "a row was sent before the one whose turn it was"
            self.gone.append(work)
            assert self.news or not (self.passed(0) or self.passed(1)), "sent although a limit was passed"
        if self.purse.waiting is not None:
            assert self.budget.on_its_way > 0, "a row waits, and nothing is on its way that could make room"
            most, money = ticks(self.purse.waiting.item.max_usd), self.store.money()
            assert self.limits[0] is None or self.budget.money.spent + most <= ticks(self.limits[0])
            assert self.limits[1] is None or money.in_doubt + most <= ticks(self.limits[1]) or self.news

    def following(self, asked):
        """Give the purse the row that follows, and note that it was asked about."""
        if not self.queue:
            return None
        asked.append(self.queue.popleft())
        return asked[-1]

    def never_fits(self, max_usd):
        """A row was set aside for good: it could not be sent if everything on its way were free."""
        if max_usd is None:
            return
        money, (budget, at_risk) = self.store.money(), self.limits
        dear = budget is not None and money.spent + ticks(max_usd) > ticks(budget)
        risky = at_risk is not None and money.in_doubt + ticks(max_usd) > ticks(at_risk)
        assert dear or risky, "a row was set aside that may still fit"

    # The checkpoint

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def intend(self, data):
        work = self.gone.pop(data.draw(st.integers(0, len(self.gone) - 1)))
        self.apply(Submit(item=work.item, attempt=work.posts + 1, at=0.0), counted=work)

    @precondition(lambda self: self.news)
    @rule()
    def hear(self):
        money, work = self.news.popleft()
        self.purse.paid(money)
        if work is not None:
            work.posts += 1
            assert self.purse.counted(work)
            self.sent.append(work)

    # The API

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), how=st.sampled_from(["unsent", "refused", "502", "doubt", "fee", "accepted", "answered"]))
    def reply(self, data, how):
        work = self.sent.pop(data.draw(st.integers(0, len(self.sent) - 1)))
        row = work.item.row
        match how:
            case "unsent":
                self.apply(Unsent(row=row))
            case "refused":
                self.apply(Refuse(row=row, at=0.0, counted=True))
            case "502":
                self.apply(Refuse(row=row, at=0.0, counted=True, entry=Entry.IN_DOUBT))
            case "doubt":
                self.apply(Doubt(row=row, at=0.0, reason=""))
            case "fee":
                self.over += max(0, ticks(FEE) - ticks(work.item.max_usd))
                refused = Refuse(row=row, at=0.0, counted=False, entry=Entry.POSSIBLE_FEE, max_usd=FEE)
                self.apply(refused, fail(row))
                return
            case "accepted":
                self.apply(Accept(row=row, request_id=f"{row}-{work.posts}", at=0.0, deadline_at=1.0))
                self.accepted.append(row)
                return
            case "answered":
                self.settle(data, row)
                return
        self.queue.append(work)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), how=st.sampled_from(["answered", "lost", "expired", "failed"]))
    def redeem(self, data, how):
        row = self.accepted.pop(data.draw(st.integers(0, len(self.accepted) - 1)))
        match how:
            case "answered":
                self.settle(data, row)
            case "lost":
                self.apply(Lose(row=row, at=0.0, reason=""))
                self.queue.append(Work(item=self.item(row), posts=self.store.counts(row).posts))
            case "expired":
                self.apply(Expire(row=row, at=0.0, reason=""), fail(row))
            case "failed":
                self.apply(JobFailed(row=row, at=0.0, reason="", cost_usd=self.cost(data, row)), fail(row))

    def settle(self, data, row):
        redeem = Redeem(row=row, at=0.0, status_code=200, raw=b"", request_id=None)
        if data.draw(st.booleans()):
            self.apply(redeem)
        else:
            cost_usd = self.cost(data, row)
            good = Succeed(row=row, model="m", cost_usd=cost_usd, usage=None, tokens=(0, 0, 0, 0))
            self.apply(redeem, data.draw(st.sampled_from([good, fail(row, cost_usd)])))

    def cost(self, data, row):
        """What a request costs in fact: sometimes nobody knows, and sometimes more than it could cost."""
        most = self.prices[row]
        usd = data.draw(st.none() | st.integers(0, 12).map(lambda tenths: most * tenths / 10))
        self.over += 0 if usd is None else max(0, ticks(usd) - ticks(most))
        return usd

    @precondition(lambda self: self.store.redeemed())
    @rule(data=st.data())
    def download(self, data):
        row = data.draw(st.sampled_from(self.store.redeemed()))
        cost_usd = self.cost(data, row)
        good = Succeed(row=row, model="m", cost_usd=cost_usd, usage=None, tokens=(0, 0, 0, 0))
        self.apply(data.draw(st.sampled_from([good, fail(row, cost_usd)])))

    # The process dies, and is started with these limits

    @rule(budget=LIMITS, at_risk=LIMITS, again=st.booleans(), new=st.booleans())
    def crash(self, budget, at_risk, again, new):
        self.limits = (budget, at_risk) if new else self.limits
        self.store.apply([Doubt(row=row, at=0.0, reason="killed") for row in self.store.submitting()])
        if again:
            self.store.apply([self.again(settled) for settled in list(self.store.failures())])
        self.over = 0
        self.start()

    def again(self, settled):
        answered = settled.error.code is Code.FAILED and self.store.counts(settled.row).posts
        try:
            self.store.record(settled.row)
        except KeyError:
            answered = False
        return Redownload(row=settled.row) if answered and settled.row % 2 else Retry(row=settled.row, at=0.0)

    # What must hold

    @invariant()
    def no_more_is_spent_than_the_budget_and_what_requests_cost_beyond_their_most(self):
        if hasattr(self, "limits"):
            assert self.passed(0) <= self.above[0] + self.over

    @invariant()
    def no_more_is_at_risk_than_the_limit(self):
        if hasattr(self, "limits"):
            assert self.passed(1) <= self.above[1]

    @invariant()
    def a_request_without_a_price_is_sent_only_where_nothing_is_limited(self):
        if hasattr(self, "limits"):
            assert all(work.item.max_usd is not None for work in self.gone)

    def teardown(self):
        """When everything on its way has come to an end, no row waits for money any more."""
        if not hasattr(self, "limits"):
            return
        for _ in range(10_000):
            if self.gone:
                work = self.gone.pop()
                self.apply(Submit(item=work.item, attempt=work.posts + 1, at=0.0), counted=work)
            elif self.news:
                self.hear()
            elif self.sent:
                self.apply(Doubt(row=self.sent.pop().item.row, at=0.0, reason=""))
            elif self.accepted:
                self.apply(Expire(row=self.accepted.pop(), at=0.0, reason=""))
            elif rows := self.store.redeemed():
                self.apply(*(fail(row) for row in rows))
            elif (work := self.purse.next(lambda: self.queue.popleft() if self.queue else None)) is not None:
                self.gone.append(work)
            else:
                break
        assert self.purse.waiting is None
        assert not self.queue
        assert self.store.money().on_its_way == 0


Spending.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSpending = Spending.TestCase
