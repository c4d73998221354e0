"""The start page sends what its server declares, with the fields that it declares."""

from __future__ import annotations

import re
from importlib.resources import files

from lodestar_live.commands import VERBS
from lodestar_live.settings import Settings
from lodestar_live.start.job import Job
from lodestar_live.start.verbs import START_VERBS
from lodestar_live.view.web.bundle import DETECTION_COLUMNS

PAGE = files("lodestar_live.view") / "web" / "page"
SCRIPT = (PAGE / "start.js").read_text(encoding="utf-8")
MARKUP = (PAGE / "start.html").read_text(encoding="utf-8")


def test_every_verb_declared_is_sent_and_every_verb_sent_is_declared() -> None:
    sent = set(re.findall(r'\bsend\("(\w+)"', SCRIPT))
    assert sent == set(START_VERBS)


def test_no_verb_of_the_page_hides_one_of_a_run() -> None:
    assert not set(START_VERBS) & set(VERBS)


def test_the_job_serves_every_verb() -> None:
    assert all(hasattr(Job, f"_{verb}") for verb in START_VERBS if verb != "take_wheel")


def test_the_page_sends_only_arguments_that_exist() -> None:
    literal = re.findall(r'send\("(\w+)", \{ ([^{}]*?) \}\)', SCRIPT)
    assert len(literal) >= 8
    for verb, body in literal:
        names = set(re.findall(r"(?:^|, )(\w+):", body))
        names |= {part for part in body.split(", ") if part.isidentifier()}
        assert names <= set(START_VERBS[verb].args.model_fields), verb


def test_what_is_set_up_is_a_setting() -> None:
    names = set(START_VERBS["set_up"].args.model_fields)
    settings = Settings()
    sections = (settings, settings.acquisition, settings.control, settings.microscope)
    known = {name for section in sections for name in type(section).model_fields}
    assert names <= known


def test_every_part_the_script_reaches_for_is_in_the_page() -> None:
    page = MARKUP + (PAGE / "index.html").read_text(encoding="utf-8")
    reached = set(re.findall(r'\$\("([\w-]+)"\)', SCRIPT))
    assert len(reached) > 30
    for name in reached:
        made_by_script = f'["{name.removeprefix("backend-")}", "' in SCRIPT
        assert f'id="{name}"' in page or made_by_script, name
    assert "score" in DETECTION_COLUMNS  # which the slider filters
