from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from lodestar_live.live.mailbox import Mailbox


def test_latest_keeps_only_the_newest_and_returns_the_displaced() -> None:
    box: Mailbox[int] = Mailbox("latest")
    assert [box.put(k) for k in range(3)] == [None, 0, 1]
    assert box.get(0.0) == 2
    assert box.get(0.0) is None


def test_every_keeps_the_oldest_in_order_and_refuses_the_newest() -> None:
    box: Mailbox[int] = Mailbox("every", 2)
    assert [box.put(k) for k in range(3)] == [None, None, 2]
    assert [box.get(0.0), box.get(0.0), box.get(0.0)] == [0, 1, None]


def test_a_closed_mailbox_refuses_but_gives_what_it_holds() -> None:
    box: Mailbox[int] = Mailbox("every", 2)
    box.put(1)
    box.close()
    assert box.put(2) == 2
    assert [box.get(1.0), box.get(1.0)] == [1, None]


@given(st.integers(1, 5), st.integers(0, 60), st.sampled_from(["latest", "every"]))
def test_no_item_is_lost_without_a_word(capacity, n, mode) -> None:
    box: Mailbox[int] = Mailbox(mode, capacity)
    taken: list[int] = []

    def take() -> None:
        while (item := box.get(1.0)) is not None:
            taken.append(item)

    worker = threading.Thread(target=take)
    worker.start()
    lost = [item for k in range(n) if (item := box.put(k)) is not None]
    box.close()
    worker.join(5.0)
    assert sorted(taken + lost) == list(range(n))
    assert taken == sorted(taken)
