"""`bench view` in its short form: the page beside a tracker, in one run."""

from __future__ import annotations

from lodestar_live.bench import view


def test_the_page_keeps_up_with_a_tracker_of_two_hundred_particles() -> None:
    report = view.run(quick=True)
    closed, opened = report.tables[0].rows
    assert closed[1] == "closed" and opened[1] == "open"
    updates_per_s, frames_per_s = opened[-1], opened[4]
    # The bar, 20, holds on a machine of its own; here others may run beside us.
    assert updates_per_s > 8
    assert frames_per_s > 0.5 * closed[4]
    assert any("Processor time per update" in note for note in report.notes)
