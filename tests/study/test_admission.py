"""What a node says of itself, and what becomes of a node that failed."""

import logging
import os
import time

import pytest
from ray._private.label_utils import validate_label_selector

from search_spaces.spec import Resources
from study import node
from study.admission import Admission, placed_by
from study.driver import Seat

OWN = node.versions()


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A driver's note in a folder; a node need not wait for it to appear."""
    monkeypatch.setattr(node, "FOUND_LATE", 0)
    with Seat(tmp_path, "", "").taken() as heartbeat:
        heartbeat.require()
        yield {"host": Seat(tmp_path, "", "").driver()["host"], "pid": os.getpid()}


def said(tmp_path, driver, ahead=0.0, **versions):
    return node.troubles(str(tmp_path), driver, OWN | versions, ahead)


def test_a_node_like_the_drivers_is_fit_and_nothing_is_left(tmp_path, driver):
    before = sorted(tmp_path.iterdir())
    assert said(tmp_path, driver) == []
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Python", f"Python {OWN['Python']}, not 9.1: install Python 9.1 there"),
        ("ray", f"ray {OWN['ray']}, not 9.1: "),
        ("torch", f"torch {OWN['torch']}, not 9.1: "),
        ("sdw-obd", f"sdw-obd {OWN['sdw-obd'] or 'is missing'}, not 9.1: "),
        ("code", f"other code of sdw-obd {OWN['sdw-obd']} than the driver's, in "),
    ],
)
def test_every_version_that_differs_is_named(tmp_path, driver, name, found):
    (trouble,) = said(tmp_path, driver, **{name: "9.1"})
    assert trouble.startswith(found)


def test_a_package_that_is_not_whole_is_not_installed(tmp_path, driver, monkeypatch):
    found = dict.fromkeys(OWN, "")
    monkeypatch.setattr(node, "versions", lambda: found)
    (trouble,) = said(tmp_path, driver)
    assert trouble.startswith("sdw-obd is not installed for ")


def test_a_copy_of_the_folder_is_not_the_storage(tmp_path, driver):
    (trouble,) = said(tmp_path, driver | {"pid": 0})
    assert trouble.startswith(f"does not see what is written to {tmp_path}: ")


def test_a_clock_is_held_against_the_storages_and_the_drivers(tmp_path, driver, monkeypatch):
    now = time.time
    for skew, way in ((-70, "70 s behind"), (50, "50 s ahead of")):
        monkeypatch.setattr(time, "time", lambda skew=skew: now() + skew)
        (trouble,) = said(tmp_path, driver)
        assert trouble.startswith(f"its clock is {way} the driver's")
        assert said(tmp_path, driver, ahead=skew) == []  # the storage's clock is off


def test_what_is_proposed_later_is_placed_on_no_node_that_failed(tmp_path, driver, caplog):
    admission = Admission(Seat(tmp_path, "", ""))
    place = placed_by(Resources(cpu=2, gpu=0.5))
    assert admission.selector() == {}
    assert place({"nodes": {}})._kwargs == place({})._kwargs == {}
    with caplog.at_level(logging.WARNING):
        for identity in ("a" * 56, "b" * 56, "b" * 56):
            admission.refuse({"id": identity, "node": "late", "troubles": ["no torch: install it"]})
    assert [record.getMessage() for record in caplog.records] == 2 * [
        "late joined the cluster and is not used: no torch: install it, and start Ray on it anew"
    ]
    selector = admission.selector()
    assert selector == {"ray.io/node-id": f"!in({'a' * 56},{'b' * 56})"}
    assert validate_label_selector(selector) is None
    request = place({"nodes": selector})
    assert request._kwargs == {"bundle_label_selector": [selector]}
    assert request.bundles == [{"CPU": 2.0, "GPU": 0.5}]
