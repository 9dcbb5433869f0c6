"""Prerequisites of encryption: what is refused, by which rule."""

from dataclasses import replace
from typing import Any

import pytest

from rig.ve.prerequisites import (
    DriveModel,
    EncryptionMethod,
    Installation,
    InstalledDrive,
    LibraryType,
    PrerequisiteError,
    Step,
    UnmetPrerequisite,
    drives_in_use,
    encryption_refusals,
    findings,
    next_step,
    parse_level,
    require_encryption_settings,
    require_step,
    steps_done,
)

NONE: frozenset[int] = frozenset()
GOOD = Installation(drives=(InstalledDrive("D1"), InstalledDrive("D2")))


def e05(*serials: str) -> tuple[InstalledDrive, ...]:
    return tuple(InstalledDrive(serial) for serial in serials)


def j1a(serial: str) -> InstalledDrive:
    return InstalledDrive(serial, DriveModel.J1A, NONE, method=EncryptionMethod.NONE)


def only(installation: Installation) -> UnmetPrerequisite:
    (found,) = findings(installation)
    return found


def test_installation_that_is_complete_has_no_findings() -> None:
    assert findings(GOOD) == []
    assert next_step(GOOD) is None
    require_encryption_settings(GOOD)


# PRE-1


@pytest.mark.rule("PRE-1")
@pytest.mark.parametrize(
    ("model", "features", "capable"),
    [
        (DriveModel.E05, {5592}, True),
        (DriveModel.E05, {9592}, True),
        (DriveModel.E05, {9596}, False),
        (DriveModel.J1A, {5592, 9592}, False),
    ],
)
def test_drive_can_encrypt_by_model_and_feature(
    model: DriveModel, features: set[int], capable: bool
) -> None:
    assert InstalledDrive("D1", model, frozenset(features)).capable is capable


@pytest.mark.rule("PRE-1")
def test_finding_names_an_e05_without_the_feature_and_the_remedy() -> None:
    found = only(replace(GOOD, drives=(*e05("D1"), InstalledDrive("D2", features=NONE))))
    assert (found.rule, found.subject) == ("PRE-1", "D2")
    assert "feature 5592 or 9592" in found.message
    assert "have the feature installed, or detach" in found.message


@pytest.mark.rule("PRE-1")
def test_finding_names_a_drive_that_emulates_a_j1a() -> None:
    found = only(replace(GOOD, drives=(*e05("D1"), InstalledDrive("D2", native=False))))
    assert (found.rule, found.subject) == ("PRE-1", "D2")
    assert "native (E05) mode" in found.message


@pytest.mark.rule("PRE-1")
def test_mixture_of_drives_needs_four_capable_e05() -> None:
    four = Installation(drives=(*e05("D1", "D2", "D3", "D4"), j1a("J1")))
    assert findings(four) == []
    found = only(replace(four, drives=four.drives[1:]))
    assert (found.rule, found.subject) == ("PRE-1", "J1")
    assert "at least 4 capable E05 drives and has 3" in found.message
    assert findings(replace(four, drives=four.drives[1:4])) == []  # three without a J1A will do


@pytest.mark.rule("PRE-1")
def test_j1a_drives_are_not_used_beside_native_e05() -> None:
    mixed = Installation(drives=(*e05("D1", "D2", "D3", "D4"), j1a("J1")))
    uses = drives_in_use(mixed, encrypted_volumes=False)
    assert [use.online for use in uses] == [True] * 4 + [False]
    assert "is a J1A and is not used beside native E05" in uses[-1].message
    alone = replace(mixed, drives=(j1a("J1"),))
    assert drives_in_use(alone, encrypted_volumes=False)[0].online


@pytest.mark.rule("PRE-1")
def test_finding_says_that_no_drive_is_capable() -> None:
    assert "No drive attached" in only(Installation(drives=(j1a("J1"),))).message


# PRE-2


@pytest.mark.rule("PRE-2")
@pytest.mark.parametrize("feature", [9596, 5596])
def test_library_3494_needs_its_feature_on_each_drive(feature: int) -> None:
    bare = InstalledDrive("D1")
    fitted = replace(bare, features=bare.features | {feature})
    in_3494 = replace(GOOD, library=LibraryType.L3494, microcode=(8, 2, 0, 27))
    assert findings(replace(in_3494, drives=(fitted,))) == []
    found = only(replace(in_3494, drives=(bare,)))
    assert (found.rule, found.subject) == ("PRE-2", "D1")
    assert "9596 (plant) or 5596 (field)" in found.message
    assert findings(replace(GOOD, drives=(bare,))) == []  # a TS3500 does not need it


# PRE-3


@pytest.mark.rule("PRE-3")
@pytest.mark.parametrize(
    ("library", "needed"), [(LibraryType.TS3500, "8.2.0.19"), (LibraryType.L3494, "8.2.0.27")]
)
def test_microcode_of_the_ve_has_a_minimum(library: LibraryType, needed: str) -> None:
    fitted = frozenset({9592, 9596})
    there = Installation(
        drives=(InstalledDrive("D1", features=fitted),),
        library=library,
        microcode=parse_level(needed),
    )
    assert findings(there) == []
    assert findings(replace(there, microcode=(8, 2, 1, 0))) == []
    assert findings(replace(there, microcode=(8, 10))) == []  # numbers, not text
    below = (*there.microcode[:3], there.microcode[3] - 1)
    found = only(replace(there, microcode=below))
    assert (found.rule, found.subject) == ("PRE-3", "VE")
    assert f"needs {needed} or higher" in found.message


@pytest.mark.rule("PRE-3")
def test_microcode_of_the_library_manager_has_a_minimum() -> None:
    assert findings(replace(GOOD, library_manager=(534, 31))) == []
    found = only(replace(GOOD, library_manager=(534, 30)))
    assert (found.rule, found.subject) == ("PRE-3", "library manager")
    assert "needs 534.31 or higher" in found.message


@pytest.mark.parametrize("text", ["", "8.2.x", "8..2", "-1.2", "8.2.0.1234567", "٨.2"])
def test_microcode_level_that_is_not_numeric_is_refused(text: str) -> None:
    with pytest.raises(PrerequisiteError, match=r"such as 8\.2\.0\.19"):
        parse_level(text)


# PRE-4


@pytest.mark.rule("PRE-4")
def test_encryption_settings_are_refused_without_the_license() -> None:
    without = replace(GOOD, features=NONE)
    assert only(without).rule == "PRE-4"
    with pytest.raises(PrerequisiteError, match=r"no feature 9900.*install its license key.*PRE-4"):
        require_encryption_settings(without)


@pytest.mark.rule("PRE-4")
def test_encryption_settings_are_refused_when_the_ve_forces_j1a() -> None:
    forced = replace(GOOD, forces_j1a=True)
    assert only(forced).rule == "PRE-4"
    with pytest.raises(PrerequisiteError, match=r"force its drives into J1A mode.*PRE-4"):
        require_encryption_settings(forced)


# PRE-5


@pytest.mark.rule("PRE-5")
@pytest.mark.parametrize(
    "method", [EncryptionMethod.NONE, EncryptionMethod.LIBRARY, EncryptionMethod.APPLICATION]
)
def test_drive_of_another_method_is_offline_with_encrypted_volumes(
    method: EncryptionMethod,
) -> None:
    other = replace(GOOD, drives=(*e05("D1"), InstalledDrive("D2", method=method)))
    assert only(other).rule == "PRE-5"
    before = drives_in_use(other, encrypted_volumes=False)
    assert [use.online for use in before] == [True, True]
    after = drives_in_use(other, encrypted_volumes=True)
    assert [use.online for use in after] == [True, False]
    assert f"D2 has the encryption method {method}" in after[1].message
    assert "Encrypted volumes are in use" in after[1].message
    assert after[1].message.endswith("(PRE-5)")


@pytest.mark.rule("PRE-5")
def test_drive_that_cannot_encrypt_is_offline_with_encrypted_volumes() -> None:
    mixed = replace(GOOD, drives=(*e05("D1"), InstalledDrive("D2", features=NONE)))
    assert [use.online for use in drives_in_use(mixed, encrypted_volumes=True)] == [True, False]
    old = Installation(drives=(j1a("J1"),))
    assert not drives_in_use(old, encrypted_volumes=True)[0].online


# PRE-6

UNDONE = {
    Step.CAPABLE_DRIVES: replace(GOOD, drives=(j1a("J1"),)),
    Step.VERIFIED: replace(GOOD, drives=(InstalledDrive("D1", verified=False),)),
    Step.SYSTEM_MANAGED: replace(
        GOOD, drives=(InstalledDrive("D1", method=EncryptionMethod.LIBRARY),)
    ),
    Step.LICENSE: replace(GOOD, features=NONE),
    Step.EKM_ADDRESSES: replace(GOOD, ekms=0),
    Step.VERIFY_CONNECTION: replace(GOOD, connection_verified=False),
}


@pytest.mark.rule("PRE-6")
@pytest.mark.parametrize("step", list(Step))
def test_installation_step_waits_for_those_before_it(step: Step) -> None:
    undone = UNDONE[step]
    assert [each for each, done in steps_done(undone).items() if not done] == [step]
    assert next_step(undone) is step
    order = list(Step)
    for each in order:
        if order.index(each) <= order.index(step):
            require_step(undone, each)
        else:
            with pytest.raises(
                PrerequisiteError, match=rf"too early to {each}: first {step}.*PRE-6"
            ):
                require_step(undone, each)


@pytest.mark.rule("PRE-6")
def test_installation_order_is_that_of_the_source() -> None:
    assert [step.name for step in Step] == [
        "CAPABLE_DRIVES",
        "VERIFIED",
        "SYSTEM_MANAGED",
        "LICENSE",
        "EKM_ADDRESSES",
        "VERIFY_CONNECTION",
    ]


@pytest.mark.rule("PRE-7")
def test_what_is_wrong_with_the_ve_keeps_every_drive_from_encrypting() -> None:
    serials = [drive.serial for drive in GOOD.drives]
    assert encryption_refusals(GOOD, serials) == {}
    changes: tuple[dict[str, Any], ...] = (
        {"microcode": (8, 2, 0, 18)},
        {"library_manager": (534, 30)},
        {"features": frozenset()},
        {"forces_j1a": True},
        {"drives": (*GOOD.drives, j1a("OLD"))},
    )
    for change in changes:
        refusals = encryption_refusals(replace(GOOD, **change), serials)
        assert list(refusals) == serials, change
        assert all("PRE-" in why for why in refusals.values())
    first, *others = GOOD.drives
    plain = replace(GOOD, drives=(replace(first, features=frozenset()), *others))
    assert list(encryption_refusals(plain, serials)) == [first.serial]
    assert "not among the installed drives" in encryption_refusals(GOOD, ["OTHER"])["OTHER"]
