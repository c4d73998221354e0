"""The embedded demo: the whole mission on the real core, scored against the truth."""

from lodestar_live.demo.result import DemoResult
from lodestar_live.demo.run import SCENES, run_demo

__all__ = ["SCENES", "DemoResult", "run_demo"]
