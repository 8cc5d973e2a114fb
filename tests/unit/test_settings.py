"""Arguments of install() come before the environment, which comes before the defaults; mistakes are told clearly."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

import pool_telemetry
from pool_telemetry._settings import Settings

DEFAULTS: dict[str, Any] = {
    "spans": "notable",
    "metrics": "core",
    "max_upstreams": 100,
    "excluded_hosts": (),
    "wait_threshold": 0.01,
    "peer_address": False,
    "export": False,
    "report_at_exit": False,
}
# By setting: the text of the environment and what it means, an argument and what it means.
GIVEN: list[tuple[str, str, Any, Any, Any]] = [
    ("spans", "off", "off", "all", "all"),
    ("metrics", "off", "off", "all", "all"),
    ("max_upstreams", "7", 7, 9, 9),
    ("excluded_hosts", "a.example, *.B.example ,", ("a.example", "*.b.example"), ["C.example"], ("c.example",)),
    ("wait_threshold", "2.5", 2.5, 3, 3.0),
    ("peer_address", "true", True, False, False),
    ("export", "true", True, False, False),
    ("report_at_exit", "true", True, False, False),
]


def variable(name: str) -> str:
    return "POOL_TELEMETRY_REPORT" if name == "report_at_exit" else f"POOL_TELEMETRY_{name.upper()}"


def test_the_settings_are_those_of_the_contract() -> None:
    assert {field.name for field in dataclasses.fields(Settings)} == set(DEFAULTS) == {each[0] for each in GIVEN}


def test_nothing_given_means_the_defaults() -> None:
    assert vars(Settings.resolve({}, {})) == DEFAULTS


@pytest.mark.parametrize(("name", "text", "in_environment", "argument", "as_argument"), GIVEN)
def test_an_argument_comes_before_the_environment_which_comes_before_the_default(
    name: str, text: str, in_environment: Any, argument: Any, as_argument: Any
) -> None:
    environ = {variable(name): text}
    assert vars(Settings.resolve({}, environ)) == {**DEFAULTS, name: in_environment}
    assert vars(Settings.resolve({name: argument}, {})) == {**DEFAULTS, name: as_argument}
    assert vars(Settings.resolve({name: argument}, environ)) == {**DEFAULTS, name: as_argument}
    assert vars(Settings.resolve({name: None}, environ)) == {**DEFAULTS, name: in_environment}


def test_the_environment_is_read_when_the_settings_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_TELEMETRY_SPANS", "all")
    assert Settings.resolve({}).spans == "all"
    monkeypatch.setenv("POOL_TELEMETRY_SPANS", "off")
    assert Settings.resolve({}).spans == "off"


@pytest.mark.parametrize("text", ["", "  ", "\t"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_variable_is_as_good_as_none(name: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert vars(Settings.resolve({}, {variable(name): text})) == DEFAULTS
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [
        ("spans", " ALL ", "all"),
        ("metrics", "Off", "off"),
        ("max_upstreams", " +5 ", 5),
        ("wait_threshold", "0", 0.0),
        ("wait_threshold", "1e-3", 0.001),
        *(("peer_address", text, True) for text in ("1", "TRUE", "yes", "On")),
        *(("peer_address", text, False) for text in ("0", "False", "no", "OFF")),
        ("export", "1", True),
        ("excluded_hosts", "one", ("one",)),
        ("excluded_hosts", ",,", ()),
    ],
)
def test_the_environment_is_read_generously(name: str, text: str, meant: Any) -> None:
    resolved = getattr(Settings.resolve({}, {variable(name): text}), name)
    assert resolved == meant
    assert type(resolved) is type(meant)


@pytest.mark.parametrize("value", [[" A "], ("a",), {"a"}, frozenset({"a"}), "a", " A ,"])
def test_host_patterns_may_be_any_collection_or_one_string(value: Any) -> None:
    assert Settings.resolve({"excluded_hosts": value}, {}).excluded_hosts == ("a",)


# What is allowed is told in words that have to stand in the message.
ALLOWED = {
    "spans": ("'off'", "'notable'", "'all'"),
    "metrics": ("'off'", "'core'", "'all'"),
    "max_upstreams": ("whole number", "at least 1"),
    "excluded_hosts": ("list of strings", "commas"),
    "wait_threshold": ("number of seconds", "0 or more"),
    "peer_address": ("True", "False"),
    "export": ("True", "False"),
    "report_at_exit": ("True", "False"),
}
WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "spans": ("none", "ALL", "", 1, True, ["all"], object()),
    "metrics": ("notable", b"all", 0, {"all"}),
    "max_upstreams": (0, -1, 1.0, "5", True, [1]),
    "excluded_hosts": (5, b"host", ["a", 1], {"a": 1}.items(), [None]),
    "wait_threshold": (-0.1, float("inf"), float("nan"), "1", True, [1], 10**400),
    "peer_address": (1, 0, "true", "", []),
    "export": (1, "yes", object()),
    "report_at_exit": (1, "yes", object()),
}
WRONG = [(name, value) for name, values in WRONG_VALUES.items() for value in values]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{each[0]}-{each[1]!r:.30}" for each in WRONG])
def test_install_refuses_a_wrong_value_and_names_it(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        pool_telemetry.install(**{name: value})
    for told in (name, repr(value), *ALLOWED[name]):
        assert told in str(caught.value)


def test_a_refused_install_leaves_nothing_installed() -> None:
    from urllib3.connectionpool import HTTPConnectionPool

    before = vars(HTTPConnectionPool)["_get_conn"]
    with pytest.raises(ValueError, match="spans"):
        pool_telemetry.install(spans="none")
    assert vars(HTTPConnectionPool)["_get_conn"] is before


def test_resolving_an_unknown_setting_names_it_and_the_known_ones() -> None:
    with pytest.raises(TypeError) as caught:
        Settings.resolve({"spam": 1}, {})
    for name in ("spam", *DEFAULTS):
        assert name in str(caught.value)


def test_installing_with_an_unknown_setting_names_it_and_the_known_ones() -> None:
    unknown: dict[str, Any] = {"spam": 1}
    with pytest.raises(TypeError) as caught:
        pool_telemetry.install(**unknown)
    for name in ("spam", *DEFAULTS):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spans", "some"),
        ("metrics", "notable"),
        *(("max_upstreams", text) for text in ("0", "-3", "many", "1.5", "+-5", "--5", "²", "9" * 5000)),
        *(("wait_threshold", text) for text in ("soon", "-1", "nan", "inf")),
        ("peer_address", "perhaps"),
        ("export", "2"),
    ],
)
def test_a_bad_variable_is_one_warning_that_names_it_and_the_default(
    name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert vars(Settings.resolve({}, {variable(name): text})) == DEFAULTS
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pool_telemetry", logging.WARNING)
    for told in (variable(name), text[:50], *ALLOWED[name], repr(DEFAULTS[name])):
        assert told in record.getMessage()


def test_each_bad_variable_is_warned_of_and_the_good_ones_hold(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"POOL_TELEMETRY_SPANS": "some", "POOL_TELEMETRY_EXPORT": "x", "POOL_TELEMETRY_METRICS": "all"}
    assert vars(Settings.resolve({}, environ)) == {**DEFAULTS, "metrics": "all"}
    assert len(caplog.records) == 2


def test_an_argument_spares_the_warning_of_its_variable(caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.resolve({"spans": "all"}, {"POOL_TELEMETRY_SPANS": "some"}).spans == "all"
    assert not caplog.records


def test_a_bad_variable_does_not_keep_a_service_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from urllib3.connectionpool import HTTPConnectionPool

    monkeypatch.setenv("POOL_TELEMETRY_SPANS", "some")
    before = vars(HTTPConnectionPool)["_get_conn"]
    pool_telemetry.install()
    assert vars(HTTPConnectionPool)["_get_conn"] is not before
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.spans = "all"  # type: ignore[misc]  # frozen: that is what is tested
