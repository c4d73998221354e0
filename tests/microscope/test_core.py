from __future__ import annotations

import pytest

from lodestar_live.errors import LodestarError
from lodestar_live.microscope import has_active_core, open_microscope
from lodestar_live.settings import MicroscopeSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "headless"}, "config_file is not set"),
        ({"backend": "headless", "config_file": "absent.cfg"}, "no such file"),
        ({"backend": "running", "port": 4999}, "no Micro-Manager answers"),
    ],
)
def test_an_unreachable_microscope_is_named(settings, message) -> None:
    with pytest.raises(LodestarError, match=message):
        open_microscope(MicroscopeSettings(**settings))
    assert not has_active_core()
