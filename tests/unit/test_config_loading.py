"""The merge of flags, environment and TOML."""

import dataclasses
from pathlib import Path

import pytest

import bulkgrok.config
from bulkgrok.config import FLAGS, RunConfig, Secret, endpoint, from_keywords, load
from bulkgrok.core.errors import UsageError

KEY = {"XAI_API_KEY": "xai-test-key"}


def configured(environ=None, /, **flags):
    return load({"input": "in.jsonl", **flags}, environ=KEY | (environ or {}))


def toml(tmp_path, text):
    file = tmp_path / "flags.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_nothing_given_gives_the_documented_defaults():
    config = configured()
    assert (config.concurrency, config.mode, config.kind) == (20, "direct", "chat")
    assert (config.timeout, config.max_outage, config.deferred_ttl) == (3600, 7200, 86400)
    assert (config.max_attempts, config.on_ambiguous, config.on_lost) == (8, "resubmit", "resubmit")
    assert config.base_url == "https://api.x.ai/v1"
    assert config.input == str(Path.cwd() / "in.jsonl")


def test_a_flag_beats_the_environment_which_beats_toml(tmp_path):
    file = toml(tmp_path, "concurrency = 1\nrps = 1\nrpm = 1")
    environ = {"BULKGROK_CONCURRENCY": "2", "BULKGROK_RPS": "2", "BULKGROK_CONFIG": str(file)}
    config = configured(environ, concurrency="3")
    assert (config.concurrency, config.rps, config.rpm) == (3, 2, 1)


def test_the_config_flag_beats_its_variable(tmp_path):
    file = toml(tmp_path, "rps = 5")
    assert configured({"BULKGROK_CONFIG": "/nowhere.toml"} | {"BULKGROK_CONFIG": str(file)}).rps == 5


def test_params_of_all_layers_are_merged_key_by_key(tmp_path):
    file = toml(tmp_path, '[param]\ntemperature = 0.5\nseed = 1\nstop = ["a"]')
    config = load(
        {"input": "x", "param": ("seed=3", "user=ann")},
        environ=KEY | {"BULKGROK_PARAM": '{"seed": 2, "top_p": 0.1}'},
        config_file=file,
    )
    assert config.params == {"temperature": 0.5, "seed": 3, "stop": ["a"], "top_p": 0.1, "user": "ann"}


@pytest.mark.parametrize("spelling", ["max-outage", "max_outage"])
def test_toml_keys_are_flag_names_with_hyphens_or_underscores(tmp_path, spelling):
    assert load({"input": "x"}, environ=KEY, config_file=toml(tmp_path, f'{spelling} = "90s"')).max_outage == 90


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("concurency = 3", "concurency"),
        ("config = 'x'", "config"),
        ("input = 'x'", "input"),
        ("webhook_url = 3", "webhook_url"),
        ("concurrency = true", "whole number"),
        ("concurrency = 0", "at least 1"),
        ("stream = 1", "true or false"),
        ("model = 3", "text"),
        ("rps = 'fast'", "number above 0"),
        ("not toml", "not TOML"),
        ("param = 3", "KEY=VALUE"),
    ],
)
def test_a_wrong_toml_names_the_file_and_the_key(tmp_path, text, says):
    file = toml(tmp_path, text)
    with pytest.raises(UsageError, match="Nothing was sent") as caught:
        load({"input": "x"}, environ=KEY, config_file=file)
    assert says in caught.value.message
    assert "flags.toml" in caught.value.message


def test_a_misspelt_toml_key_is_answered_with_the_flag_that_was_meant(tmp_path):
    with pytest.raises(UsageError) as caught:
        load({"input": "x"}, environ=KEY, config_file=toml(tmp_path, "concurency = 3"))
    assert "concurrency" in caught.value.hint


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 100_000])
def test_a_config_file_of_rubbish_is_a_usage_error(tmp_path, content):
    file = tmp_path / "rubbish.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError):
        load({"input": "x"}, environ=KEY, config_file=file)


def test_a_missing_config_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load({"input": "x"}, environ=KEY, config_file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("concurrency", "0"), ("concurrency", "-1"), ("concurrency", "1.5"), ("concurrency", "9" * 5000),
        ("rps", "0"), ("rps", "nan"), ("rps", "inf"), ("rps", "-1"), ("rpm", ""), ("tpm", "x"),
        ("limit", "-1"), ("preview", "0"), ("max_outstanding", "0"), ("max_attempts", "0"),
        ("timeout", "0"), ("timeout", "-5"), ("timeout", "1d"), ("timeout", "inf"), ("poll_interval", "0s"),
        ("mode", "batch"), ("kind", "image"), ("progress", "loud"), ("log_level", "trace"),
        ("on_lost", "ignore"), ("output_format", "csv"), ("output", "ftp://b/k"), ("output", ""), ("output", "a\0b"),
        ("checkpoint", "mysql://h/d"), ("checkpoint", "postgresql://h/d#run"), ("run_id", ""), ("run_id", "a\nb"),
        ("ca_file", "/nowhere.pem"), ("prices", "/nowhere.toml"),
        ("proxy", "socks5://h"), ("param", ("novalue",)), ("param", ("=1",)), ("prompt", "@/nowhere"), ("prompt", ""),
        ("model", " "), ("model", "\ud800"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_names_its_flag(flag, value):
    with pytest.raises(UsageError) as caught:
        configured(**{flag: value})
    assert caught.value.message.startswith(f"--{flag.replace('_', '-')} ")
    assert caught.value.exit_code == 2


def test_a_wrong_variable_is_named():
    with pytest.raises(UsageError, match=r"^BULKGROK_CONCURRENCY must be a whole number, not 'many'"):
        configured({"BULKGROK_CONCURRENCY": "many"})


@pytest.mark.parametrize("word", ["1", "true", "YES", "on"])
def test_a_switch_reads_the_usual_words(word):
    assert configured({"BULKGROK_STRICT": word}).strict


def test_a_switch_can_be_turned_off_and_an_empty_variable_is_not_set():
    assert not configured({"BULKGROK_STRICT": "no", "BULKGROK_RPS": ""}).strict
    assert configured({"BULKGROK_NO_DOWNLOAD": "1"}).download is False
    assert configured({"BULKGROK_NO_DOWNLOAD": "0"}).download is True


def test_a_variable_that_means_nothing_is_pointed_out():
    assert any("BULKGROK_CONCURENCY" in text for text in configured({"BULKGROK_CONCURENCY": "3"}).warnings)


def test_a_template_is_read_from_a_file(tmp_path):
    (tmp_path / "prompt.txt").write_bytes("\ufeffQ: {{ question }} ü".encode())
    assert configured(prompt=f"@{tmp_path / 'prompt.txt'}").prompt == "Q: {{ question }} ü"
    (tmp_path / "latin.txt").write_bytes(b"\xfc")
    with pytest.raises(UsageError, match="not UTF-8"):
        configured(system=f"@{tmp_path / 'latin.txt'}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1), ("a=x", "x"), ("a=", ""), ('a="1"', "1"), ('a={"b": [null]}', {"b": [None]}), ("a=nancy", "nancy"),
        ("a=b=c", "b=c"), ("a=true", True),
    ],
)  # fmt: skip
def test_a_param_is_json_or_else_text(text, value):
    assert configured(param=(text,)).params == {"a": value}


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", " -Infinity", '{"type":"json', "[1,", '"x', '{"a": NaN}', "[" * 50_000, "1e400"]
)
def test_a_param_that_was_meant_to_be_json_and_is_none_is_refused(value):
    with pytest.raises(UsageError, match=r"^--param must .*Nothing was sent\.$"):
        configured(param=("a=" + value,))


def test_a_file_that_cannot_be_read_is_answered_with_what_to_do(tmp_path):
    (tmp_path / "c.toml").write_text("model = ")
    (tmp_path / "key").write_bytes(b"\xff")
    for flags in ({"config": tmp_path / "c.toml"}, {"config": tmp_path / "no"}, {"api_key_file": tmp_path / "key"}):
        with pytest.raises(UsageError, match="Nothing was sent") as caught:
            configured(**flags)
        assert caught.value.hint


def test_the_key_comes_from_the_environment_and_shows_nowhere():
    config = configured({"XAI_API_KEY": "  xai-secret\n"})
    assert config.api_key.reveal() == "xai-secret"
    assert "xai-secret" not in repr(config)
    assert "xai-secret" not in str(dataclasses.replace(config, rps=1.0))


def test_a_key_file_beats_the_environment_and_warns_when_others_can_read_it(tmp_path):
    file = tmp_path / "key"
    file.write_text("xai-from-file\n", encoding="ascii")
    file.chmod(0o600)
    config = configured(api_key_file=str(file))
    assert (config.api_key.reveal(), config.warnings) == ("xai-from-file", ())
    file.chmod(0o644)
    assert any("chmod 600" in text for text in configured(api_key_file=str(file)).warnings)


@pytest.mark.parametrize("key", ["", "  \n", "two words", "line\nbreak", "caf\u00e9", "a\x1bb"])
def test_a_key_that_is_none_is_refused_without_being_repeated(key):
    with pytest.raises(UsageError) as caught:
        load({"input": "x"}, environ={"XAI_API_KEY": key})
    assert not key.strip() or key not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"x" * 10_000, b"-----BEGIN\nCERT"])
def test_a_key_file_that_holds_no_key_is_refused(tmp_path, content):
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(UsageError):
        load({"input": "x", "api_key_file": file}, environ={})


def test_no_key_is_needed_to_simulate_or_to_preview_and_the_simulator_never_gets_the_real_one():
    assert load({"input": "x", "preview": 3}, environ={}).api_key.reveal() == ""
    simulated = load({"input": "x", "simulate": True}, environ={"XAI_API_KEY": "xai-real"})
    assert simulated.api_key.reveal() not in {"", "xai-real"}


def test_a_key_that_the_caller_has_is_taken_and_no_other_is_asked_for():
    assert load({"input": "x"}, environ={}, api_key=Secret("mine")).api_key.reveal() == "mine"


def test_keywords_are_the_flags_in_snake_case(monkeypatch):
    monkeypatch.setenv("XAI_API_KEY", "k" * 10)
    config = from_keywords("in.jsonl", output="out/", max_outage="15m", param={"seed": 1}, no_download=True, rps=None)
    assert (config.output_is_folder, config.max_outage, config.params) == (True, 900, {"seed": 1})
    assert config.download is False


def test_a_wrong_keyword_is_answered_with_the_ones_that_look_like_it(monkeypatch):
    monkeypatch.setenv("XAI_API_KEY", "k" * 10)
    with pytest.raises(UsageError, match="concurency") as caught:
        from_keywords("in.jsonl", concurency=3)
    assert "concurrency" in caught.value.hint
    with pytest.raises(UsageError, match=r"^rps must be"):
        from_keywords("in.jsonl", rps="x")


def test_an_input_that_is_no_path_is_refused():
    for source in ("s3://../in.jsonl", "", "a\0b", None, 3):
        with pytest.raises(UsageError, match="input"):
            load({"input": source}, environ=KEY)
    assert load({"input": "-"}, environ=KEY).input == "-"


def test_every_flag_sets_a_field_that_exists():
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert {flag.field for flag in FLAGS} - fields == {"api_key_file", "config"}
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)


def test_flags_of_later_issues_do_not_exist():
    names = {flag.name for flag in FLAGS}
    assert not names & {"webhook-url", "webhook-listen", "api-key"}


def test_everything_exported_is_there():
    assert all(hasattr(bulkgrok.config, name) for name in bulkgrok.config.__all__)


def test_single_calls_take_key_and_address_as_given_or_from_the_environment():
    key, address = endpoint(environ={"XAI_API_KEY": " k ", "XAI_BASE_URL": "http://127.0.0.1:9"})
    assert (key.reveal(), address) == ("k", "http://127.0.0.1:9/v1")
    key, address = endpoint("mine", "https://api.x.ai/", environ={"XAI_API_KEY": "k"})
    assert (key.reveal(), address) == ("mine", "https://api.x.ai/v1")
    for refused in ({"api_key": ""}, {"api_key": "k", "base_url": "http://api.x.ai"}, {}):
        with pytest.raises(UsageError):
            endpoint(**refused, environ={})
