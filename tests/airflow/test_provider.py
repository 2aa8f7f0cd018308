"""The provider as Airflow sees it."""

import json


def test_airflow_knows_the_provider_its_connection_type_and_the_form(airflow):
    providers = json.loads(
        airflow.run("providers", "list", "-o", "json").partition("[")[1] + airflow.said.partition("[")[2]
    )
    assert [found["package_name"] for found in providers].count("bulkgrok") == 1
    assert "bulkgrok.airflow.hook.XAIHook" in airflow.run("providers", "hooks", "-o", "json")
    assert "xai" in airflow.run("providers", "behaviours", "-o", "json")


def test_the_test_button_asks_the_api_about_the_key(airflow, simulator):
    api = simulator("--accepted-keys=xai-airflow-canary-0123456789abcdef")
    airflow.connect(api.base_url)
    said = airflow.run("connections", "test", "xai_default")
    assert "Connection success!" in said, said
    assert api.sums()["posts"] == 0
    api.set(accepted_keys="xai-another")
    said = airflow.run("connections", "test", "xai_default")
    assert "Connection failed!" in said, said


TRIGGER = """
import asyncio, json, logging, time, warnings
from bulkgrok.airflow.trigger import BulkGrokTrigger
from airflow.triggers.base import BaseTrigger
import aiohttp, socket

def forbidden(*_, **__):
    raise AssertionError("a trigger sends nothing")

aiohttp.ClientSession.__init__ = forbidden
socket.socket.connect = forbidden
slow = []

class Slow(logging.Handler):
    def emit(self, record):
        slow.append(record.getMessage())

logging.getLogger("asyncio").addHandler(Slow())

async def main():
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0.2
    at = time.time() + 0.5
    path, arguments = BulkGrokTrigger("dag/task/run/-1", at).serialize()
    assert path == "bulkgrok.airflow.trigger.BulkGrokTrigger"
    trigger = BulkGrokTrigger(**json.loads(json.dumps(arguments)))
    assert isinstance(trigger, BaseTrigger)
    events = [event async for event in trigger.run()]
    assert at <= time.time() < at + 5
    assert [event.payload for event in events] == [{"run_id": "dag/task/run/-1", "next_at": at}]
    over = [event async for event in BulkGrokTrigger("dag/task/run/-1", at - 3600).run()]
    assert len(over) == 1
    waiting = asyncio.ensure_future(anext(BulkGrokTrigger("r", time.time() + 3600).run()))
    await asyncio.sleep(0)
    waiting.cancel()
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)

asyncio.run(main())
assert not [text for text in slow if "Executing" in text], slow
print("TRIGGER GOOD")
"""


def test_the_trigger_sleeps_to_a_moment_sends_nothing_and_blocks_nothing(airflow):
    assert "TRIGGER GOOD" in airflow.python(TRIGGER)


MAPPED = """
import bulkgrok.airflow.operator as module
hidden = []
module.mask_secret = hidden.append
from bulkgrok.airflow import BulkGrokOperator
plain = BulkGrokOperator(task_id="a", input="x", output="y.jsonl", checkpoint="postgresql://u:{{ word }}@h/d")
plain.render_template_fields({"word": "sesame1"})
mapped = BulkGrokOperator(task_id="b", input="x", output="y.jsonl", checkpoint="postgresql://u:sesame2@h/d")
# What MappedOperator.render_template_fields calls of the task that it expanded.
mapped._do_render_template_fields(
    parent=mapped, template_fields=mapped.template_fields, context={},
    jinja_env=mapped.get_template_env(), seen_oids=set(),
)
print("HIDDEN", hidden)
"""


def test_the_password_of_the_database_is_hidden_from_the_fields_of_mapped_tasks_too(airflow):
    assert "HIDDEN ['sesame1', 'sesame2']" in airflow.python(MAPPED)
