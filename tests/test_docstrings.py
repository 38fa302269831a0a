"""Docstrings of components: every argument of a constructor is described under ``Parameters``."""

import importlib
import inspect
import re

import pytest
from amaranth.hdl import Elaboratable

from tests.support.modules import MODULES


def components() -> list[type]:
    """The components that hdl/ and fpga/ define."""
    found = []
    for name in sorted(MODULES):
        if name.startswith(("hdl.", "fpga.link.")):
            module = importlib.import_module(name)
            found += [
                thing
                for thing in vars(module).values()
                if inspect.isclass(thing) and issubclass(thing, Elaboratable) and thing.__module__ == name
            ]
    return found


def undescribed(component: type) -> list[str]:
    """Arguments of the constructor that the ``Parameters`` of the docstring do not name."""
    if "__init__" not in vars(component):
        return []
    arguments = [name for name in inspect.signature(component.__init__).parameters if name != "self"]
    text = inspect.getdoc(component) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^([\w, ]+?)(?: :|  |$)", section[1], re.MULTILINE) if section else []
    described = {name.strip() for names in named for name in names.split(",")}
    return [name for name in arguments if name not in described]


@pytest.mark.parametrize("component", components(), ids=lambda component: component.__name__)
def test_every_argument_is_described(component):
    assert undescribed(component) == []


class _Bare:
    """A component without parameters in its docstring."""

    def __init__(self, *, lanes: int):
        self.lanes = lanes


def test_an_argument_that_is_not_described_is_found():
    assert undescribed(_Bare) == ["lanes"]
