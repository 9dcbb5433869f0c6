"""lab.yaml: it loads as written, and each mistake is named with its line."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

from hsm.configuration.load import dump
from hsm.configuration.part import Part
from hsm.pkcs11.pins import PinSource
from rig.lab.base import LabError
from rig.lab.load import default_lab_path, load_lab
from rig.lab.model import Lab
from rig.scenarios.round_trip import run_pools
from rig.testbed.boards import choose_board
from rig.testbed.session import choose_drive

PROJECT = Path(__file__).parents[3]
DEFAULT = (PROJECT / "lab.yaml").read_text()


def load(folder: Path, text: str) -> Lab:
    path = folder / "lab.yaml"
    path.write_text(text)
    return load_lab(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(LabError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.rule("POOL-1", "EKM-1")
def test_lab_default_is_as_documented() -> None:
    lab = load_lab(PROJECT / "lab.yaml")
    assert lab.boards["sim"].clock_hz == 62.5e6
    assert lab.drives[0].native_rate == 104e6
    assert lab.fastest_rate == 104e6
    assert lab.ekms[0].port == 3801
    assert not lab.pools[1].encrypt
    assert [(key.label, key.mode) for key in lab.pools[2].keys] == [
        ("June 2007 Key", "clear"),
        ("June 2007 DR Site Key", "hash"),
    ]


@pytest.mark.rule("EKM-1")
def test_lab_has_port_3801_unless_configured(tmp_path: Path) -> None:
    assert load(tmp_path, DEFAULT.replace("    port: 3801\n", "")).ekms[0].port == 3801
    assert load(tmp_path, DEFAULT.replace("port: 3801", "port: 4000")).ekms[0].port == 4000


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            "clock_mhz: 62.5 ",
            "clok_mhz: 100 ",
            "lab.yaml:9: 'clok_mhz' is not a key of boards.sim; did you mean 'clock_mhz'?",
        ),
        (
            "clock_mhz: 62.5 ",
            "clock_mhz: 0 ",
            "lab.yaml:9: boards.sim.clock_mhz is 0; it must be a number from 1 to 1000.",
        ),
        (
            "clock_mhz: 62.5 ",
            "clock_mhz: .nan ",
            "lab.yaml:9: boards.sim.clock_mhz is nan; it must be a number from 1 to 1000.",
        ),
        (
            "kind: sim ",
            "kind: fpga ",
            "lab.yaml:8: boards.sim.kind is 'fpga'; it must be 'sim' (the gates under Verilator) "
            "or 'visa' (a board at a VISA resource).",
        ),
        (
            "    board: sim",
            "    board: simm",
            "lab.yaml:17: there is no board 'simm'; did you mean 'sim'?",
        ),
        (
            "model: TS1120 ",
            "model: TS112O ",
            "lab.yaml:16: drives[0].model is 'TS112O', whose native rate is not known; did you "
            "mean TS1120? For another model add native_mb_per_s.",
        ),
        (
            "model: TS1120 ",
            "model: LTO-9 ",
            "lab.yaml:16: drives[0].model is 'LTO-9', whose native rate is not known; known are "
            "TS1120, TS1130, TS1140, TS1150, TS1155, TS1160, TS1170. For another model add "
            "native_mb_per_s.",
        ),
        (
            "    model: TS1120 ",
            "    native_mb_per_s: 90\n    model: TS1120 ",
            "lab.yaml:16: drives[0].native_mb_per_s is 90, and a TS1120 has 104; remove "
            "native_mb_per_s, or name another model.",
        ),
        (
            "    model: TS1120 ",
            "    native_mb_per_s: 9.9\n    model: LTO-1 ",
            "lab.yaml:16: drives[0].native_mb_per_s is 9.9; it must be a number of MB/s from 10 to "
            "10000, the native rate of any other model.",
        ),
        (
            "    model: TS1120 ",
            "    # model: TS1120 ",
            "lab.yaml:15: drives[0] lacks 'model'; it must be one of TS1120, TS1130, TS1140, "
            "TS1150, TS1155, TS1160, TS1170, or with native_mb_per_s another name of 1 to 32 "
            "letters, digits, spaces, '.', '_' and '-'.",
        ),
        (
            "port: 3801",
            "port: 70000",
            "lab.yaml:29: ekms[0].port is 70000; "
            "it must be a TCP port from 1 to 65535, or 0 for any free.",
        ),
        (
            "start: true ",
            "start: maybe ",
            "lab.yaml:30: ekms[0].start is 'maybe'; it must be true or false.",
        ),
        (
            "token: ekm",
            "token: ekn",
            "lab.yaml:31: there is no token 'ekn'; did you mean 'ekm'?",
        ),
        (
            "  2:\n",
            "  33:\n",
            "lab.yaml:43: '33' cannot be a key of pools; it must be a number from 1 to 32.",
        ),
        (
            "    encrypt: false",
            "    encrypt: false\n    encrypt: true",
            "lab.yaml:43: pools.1.encrypt is given twice, first in line 42; keep one of them.",
        ),
        (
            "mode: hash",
            "mode: hashed",
            "lab.yaml:47: pools.2.keys[1].mode is 'hashed'; it must be 'clear' or 'hash'.",
        ),
        (
            "- label: June 2007 DR Site Key",
            "- label: June 2007 DR Site Key\n  - label: june 2007 KEY",
            "lab.yaml:38: the key label 'june 2007 KEY' is given twice "
            "(labels are compared without case).",
        ),
        (
            "cap_mb: 8 ",
            "cap_mb: -1 ",
            "lab.yaml:50: scenario.cap_mb is -1; "
            "it must be a number of megabytes above 0, at most 100000.",
        ),
        (
            "  cap_mb: 8 ",
            "  data: 7\n  cap_mb: 8 ",
            "lab.yaml:50: scenario.data is 7; it must be a list of files and folders.",
        ),
        (
            "boards:\n  sim:",
            "boards:\n  sim: 3\n  sam:",
            "lab.yaml:7: boards.sim is 3; "
            "it must be a map with kind, clock_mhz, resource, baud, fpga, width.",
        ),
        (
            "name: default",
            "name: [default",
            "lab.yaml:6: this is not YAML: expected ',' or ']', but got ':'; "
            "check the indentation, the colons and the quotes of this line and the one before.",
        ),
        (
            "module: softhsm ",
            "module: /opt/lib.so ",
            "lab.yaml:21: tokens.ekm has no pin; for a token of your own write "
            "'{env: NAME}' or '{file: PATH}', the place of the PIN.",
        ),
    ],
)
def test_lab_mistake_is_named_with_its_line(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    rules = "\n".join(each for each in DEFAULT.splitlines() if not each.lstrip().startswith("# "))
    assert f"{rules}\n".count(before) == 1
    assert refusal(tmp_path, DEFAULT.replace(before, after, 1)) == sentence


@pytest.mark.parametrize(
    "written", ["pin: 12345678", "pin: '12345678'", "pin: {value: 12345678}", "pin: [12345678]"]
)
def test_lab_with_a_pin_is_refused_and_the_pin_not_repeated(tmp_path: Path, written: str) -> None:
    text = refusal(tmp_path, DEFAULT.replace("# pin: {env: NAME} ", f"{written} #"))
    assert text.startswith("lab.yaml:24: ")
    assert "12345678" not in text
    assert "{env: NAME}" in text or "env, file" in text


def test_lab_takes_pins_from_variables_and_files(tmp_path: Path) -> None:
    text = DEFAULT.replace("# pin: {env: NAME} ", "pin: {file: secret/pin} #")
    pin = load(tmp_path, text).tokens["ekm"].pin
    assert pin is not None
    assert pin.file == tmp_path / "secret/pin"
    both = DEFAULT.replace("# pin: {env: NAME} ", "pin: {env: A, file: b} #")
    assert "never written" in refusal(tmp_path, both)


def test_lab_mistakes_are_all_named_in_order_of_lines(tmp_path: Path) -> None:
    text = DEFAULT.replace("port: 3801", "port: x").replace("kind: sim ", "kind: no ")
    first, second = refusal(tmp_path, text).splitlines()
    assert first.startswith("lab.yaml:8: ")
    assert second.startswith("lab.yaml:29: ")


@pytest.mark.rule("POOL-1")
def test_lab_pool_that_encrypts_needs_keys(tmp_path: Path) -> None:
    text = DEFAULT.replace("    encrypt: false", "    encrypt: true")
    assert refusal(tmp_path, text).startswith("lab.yaml:41: pool 1 encrypts but has no keys; ")


def test_lab_refuses_files_that_are_no_lab(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nowhere\.yaml cannot be read"):
        load_lab(tmp_path / "nowhere.yaml")
    assert "is empty" in refusal(tmp_path, "")
    assert "it must be a map with name" in refusal(tmp_path, "just words")
    assert "contains itself" in refusal(tmp_path, "name: &a [*a]")
    assert "forbids" in refusal(tmp_path, "name: \x00")
    (tmp_path / "lab.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(LabError, match="byte 6 is not UTF-8"):
        load_lab(tmp_path / "lab.yaml")


def test_lab_default_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_lab_path() == PROJECT / "lab.yaml"
    (tmp_path / "lab.yaml").write_text("name: x")
    assert default_lab_path() == Path("lab.yaml")


DNS = "dns:\n  - {address: 10.0.0.53}\n  - {address: '::1', port: 5353}\n"


@pytest.mark.rule("EKM-4")
def test_lab_takes_one_or_two_key_managers_and_dns_servers(tmp_path: Path) -> None:
    pair = DEFAULT.replace(
        "ekms:\n", "ekms:\n  - {name: backup, host: ekm-b.example.com, port: 3802, token: ekm}\n"
    )
    lab = load(tmp_path, DNS + pair)
    assert [(ekm.name, ekm.host) for ekm in lab.ekms] == [
        ("backup", "ekm-b.example.com"),
        ("main", "127.0.0.1"),
    ]
    assert [(server.address, server.port) for server in lab.dns] == [
        ("10.0.0.53", 53),
        ("::1", 5353),
    ]
    assert load(tmp_path, DEFAULT).dns == ()


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            "address: 10.0.0.53",
            "address: dns.example.com",
            "lab.yaml:2: dns[0].address is 'dns.example.com'; it must be an IP address, since a "
            "name could only be looked up there.",
        ),
        (
            "port: 5353",
            "port: 0",
            "lab.yaml:3: dns[1].port is 0; it must be a port from 1 to 65535.",
        ),
        (
            "dns:\n",
            "dns:\n  - {address: 10.0.0.54}\n",
            "lab.yaml:1: dns is a list of 3; it must be a list of one or two DNS servers, primary "
            "and alternate, each {address: ...}.",
        ),
        (
            "host: 127.0.0.1",
            "host: ekm main",
            "lab.yaml:31: ekms[0].host is 'ekm main'; it must be an address or a host name.",
        ),
        (
            "ekms:\n",
            "ekms:\n  - {name: main, port: 3802, token: ekm}\n",
            "lab.yaml:31: two key managers have the name 'main'; each has its own.",
        ),
    ],
)
def test_lab_mistake_about_key_managers_and_names_is_named(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    text = DNS + DEFAULT
    assert before in text
    assert refusal(tmp_path, text.replace(before, after, 1)) == sentence


def uncommented(text: str) -> str:
    """The lab with the examples in its comments made part of it."""
    example = re.compile(r"^(\s*)# ((?:- \{| +|[a-z_0-9]+:(?: |$)).*)$", re.MULTILINE)
    return example.sub(r"\1\2", text)


@pytest.mark.rule("EKM-4", "EKM-10")
def test_lab_examples_in_comments_are_right(tmp_path: Path) -> None:
    lab = load(tmp_path, uncommented(DEFAULT))
    assert [(ekm.name, ekm.host) for ekm in lab.ekms_of("main")] == [
        ("main", "127.0.0.1"),
        ("backup", "ekm-b.example.com"),
    ]
    assert [ekm.name for ekm in lab.ekms_of("elsewhere")] == ["elsewhere"]
    assert [server.address for server in lab.dns] == ["192.0.2.53", "192.0.2.54"]
    assert [drive.model for drive in lab.drives_of("elsewhere")] == ["TS1160"]
    assert lab.labels_of("elsewhere") == ("June 2007 DR Site Key",)
    assert lab.tokens["ekm"].pin == PinSource(env="NAME")
    assert lab.scenario.data == (tmp_path / "PATH", tmp_path / "..."), "from the file's folder"


def test_lab_names_the_data_to_write(tmp_path: Path) -> None:
    data = DEFAULT.replace("# data: [PATH, ...]", "data: [files/a, /b] #")
    assert load(tmp_path, data).scenario.data == (tmp_path / "files/a", Path("/b"))
    wrong = DEFAULT.replace("# data: [PATH, ...]", "data: [5] #")
    assert "scenario.data[0] is 5; it must be the path of a file or folder." in refusal(
        tmp_path, wrong
    )


OWN = """
nodes:
  first:
    drives: [TR0000000002]
    ekms: [second]
    pools:
      7: {encrypt: true, keys: [{label: June 2007 Key}]}
  main: {drives: [TR0000000001], ekms: [main]}
"""


@pytest.mark.rule("EKM-10")
def test_lab_run_takes_drives_key_managers_and_pools_of_one_node(tmp_path: Path) -> None:
    """The pools and drives are not those of the whole lab."""
    text = DEFAULT.replace(
        "drives:\n", "drives:\n  - {serial: TR0000000002, model: TS1140, board: virtual}\n", 1
    ).replace("ekms:\n", "ekms:\n  - {name: second, port: 3802, token: ekm}\n", 1)
    lab = load(tmp_path, text + OWN)
    assert lab.run_node == "first"
    assert [ekm.name for ekm in lab.ekms_of(lab.run_node)] == ["second"]
    assert [(pool.number, pool.encrypt) for pool in run_pools(lab)] == [(7, True)]
    assert choose_board(lab, None) == "virtual"
    assert choose_drive(lab, "virtual").serial == "TR0000000002"
    assert choose_drive(lab, "sim").serial == "TR0000000002", "not the other node's drive"
    other = load(tmp_path, text + OWN.replace("first:", "zzz:").replace("nodes:\n", "nodes:\n"))
    assert other.run_node == "zzz", "the first in the file, whatever its name"
    alone = load(tmp_path, DEFAULT)
    assert [pool.number for pool in run_pools(alone)] == [1, 2]
    assert choose_drive(alone, choose_board(alone, None)).serial == "TR0000000001"


@pytest.mark.rule("POOL-1", "PRE-4")
def test_lab_checks_the_pools_of_a_node_as_its_own(tmp_path: Path) -> None:
    text = DEFAULT + "\nnodes:\n  main:\n    pools:\n      4: {encrypt: true}\n"
    assert "pool 4 encrypts but has no keys" in refusal(tmp_path, text)


@pytest.mark.rule("KEY-9")
@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            "- {label: June 2007 DR Site Key, mode",
            "- {label: June 2007 DR Site Kye, mode",
            "lab.yaml:47: pool 2 names the key 'June 2007 DR Site Kye', which keks does not list; "
            "did you mean 'June 2007 DR Site Key'? Else list it, with make: false when a token has "
            "it already.",
        ),
        (
            "  - label: June 2007 Key\n  - label: June 2007 DR Site Key\n",
            "  - {label: Other}\n  - {label: June 2007 Key, make: false}\n",
            "lab.yaml:47: pool 2 names the key 'June 2007 DR Site Key', which keks does not list; "
            "did you mean 'June 2007 Key'? Else list it, with make: false when a token has it "
            "already.",
        ),
        (
            "label: June 2007 Key, mode",
            "label: ' ', mode",
            "lab.yaml:46: pools.2.keys[0].label is ' '; it must be a key label of 1 to 64 "
            "printable characters.",
        ),
    ],
)
def test_lab_names_only_keys_that_it_lists(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    assert DEFAULT.count(before) == 1
    assert refusal(tmp_path, DEFAULT.replace(before, after)) == sentence


def test_lab_compares_key_labels_without_case(tmp_path: Path) -> None:
    lab = load(tmp_path, DEFAULT.replace("{label: June 2007 Key", "{label: ' june 2007 KEY '"))
    assert lab.pools[2].keys[0].label == " june 2007 KEY "


@pytest.mark.parametrize(
    ("host", "port", "refused"),
    [
        ("127.0.0.1", 3801, True),
        ("localhost", 3801, True),
        ("LOCALHOST.", 3801, True),
        ("'::ffff:127.0.0.1'", 3801, True),
        ("0.0.0.0", 3801, True),
        ("'::'", 3801, True),
        ("0.0.0.0", 3802, False),
        ("127.0.0.1", 3802, False),
        ("127.0.0.2", 3801, False),
        ("ekm.example", 3801, False),
    ],
)
def test_lab_gives_each_key_manager_an_address(
    tmp_path: Path, host: str, port: int, refused: bool
) -> None:
    second = f"ekms:\n  - {{name: two, host: {host}, port: {port}, token: ekm}}\n"
    text = DEFAULT.replace("ekms:\n", second)
    if refused:
        assert refusal(tmp_path, text) == (
            "lab.yaml:30: the key managers 'two' and 'main' have one address, 127.0.0.1 port 3801; "
            "give each a port of its own, or 0 for any free."
        )
    else:
        assert len(load(tmp_path, text).ekms) == 2
    any_port = text.replace(f"port: {port}", "port: 0").replace("port: 3801", "port: 0")
    assert len(load(tmp_path, any_port).ekms) == 2, "any free port is never the same"


def test_lab_mistake_in_a_key_managers_name_is_named_once(tmp_path: Path) -> None:
    text = DEFAULT.replace("ekms:\n", "ekms:\n  - {name: two, port: 0, token: own}\n").replace(
        "tokens:\n", "tokens:\n  own: {module: softhsm, label: own}\n"
    )
    text += "\nnodes:\n  main: {ekms: [two, mian]}\n"
    assert refusal(tmp_path, text).endswith("there is no key manager 'mian'; did you mean 'main'?")


@pytest.mark.parametrize(
    "text",
    [
        "name: &a [" + "x, " * 20 + "]\nboards: &b [" + "*a, " * 50 + "]\nx: [" + "*b, " * 50 + "]",
        "name: " + "9" * 5000,
        "name: " + "[" * 3000,
        "name: " + "x" * 300_000,
    ],
    ids=["aliases", "digits", "brackets", "size"],
)
def test_lab_that_would_take_long_is_refused_at_once(tmp_path: Path, text: str) -> None:
    sentence = refusal(tmp_path, text)
    assert sentence.count("\n") == 0
    assert len(sentence) < 300


def models(root: type[Part]) -> set[type[Part]]:
    """All models of a configuration file."""
    found = {root}
    for field in root.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            each = waiting.pop()
            waiting += typing.get_args(each)
            if isinstance(each, type) and issubclass(each, Part) and each not in found:
                found |= models(each)
    return found


def test_lab_fields_are_all_described() -> None:
    assert len(models(Lab)) > 12
    for model in models(Lab):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_lab_loads_as_it_was_dumped(tmp_path: Path) -> None:
    lab = load(tmp_path, uncommented(DEFAULT))
    assert load(tmp_path / "..", dump(lab)) == lab


@pytest.mark.parametrize(
    ("model", "native"),
    [
        ("TS1120", 104e6),
        ("TS1130", 160e6),
        ("TS1140", 250e6),
        ("TS1150", 360e6),
        ("TS1155", 360e6),
        ("TS1160", 400e6),
        ("TS1170", 400e6),
        ("LTO-9\n    native_mb_per_s: 400", 400e6),
        ("LTO-1\n    native_mb_per_s: 15.5", 15.5e6),
    ],
)
def test_drive_model_gives_the_native_rate(tmp_path: Path, model: str, native: float) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(DEFAULT.replace("model: TS1120 ", f"model: {model} ", 1))
    lab = load_lab(file)
    assert lab.drives[0].native_rate == native
    assert lab.fastest_rate == native
