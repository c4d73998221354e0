"""`bench view` in its short form: the page beside a tracker, in one run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bench import view


@pytest.mark.needs_chromium
def test_the_page_keeps_up_with_a_tracker_of_two_hundred_particles() -> None:
    # A thread of its own: another test's browser may own this one's event loop.
    with ThreadPoolExecutor(1) as executor:
        report = executor.submit(view.run, quick=True).result()
    closed, opened = report.tables[0].rows
    assert closed[1] == "closed" and opened[1] == "open"
    updates_per_s, frames_per_s = opened[-1], opened[4]
    assert updates_per_s > 1  # that it runs; how fast is the bench's affair
    assert frames_per_s > 1
    assert any("Processor time per update" in note for note in report.notes)
