"""What the browser tests ask the page's own picture."""

from __future__ import annotations


def elsewhere(reach_px: int) -> str:
    """Find a track off the centre, at most so far, and off its neighbours."""
    return (
        _ELSEWHERE
        + f"""
    && Math.hypot(y_px[i] - 255.5, x_px[i] - 255.5) < {reach_px});
  return track_id[away[0]];
}}"""
    )


_ELSEWHERE = """() => {
  const { track_id, y_px, x_px, age_frames } = lodestar.scene.tracks;
  const apart = (i) => Math.min(...[...y_px].map((y, j) => (j === i ? Infinity
    : Math.hypot(y - y_px[i], x_px[j] - x_px[i]))));
  const away = [...track_id.keys()].filter((i) => age_frames[i] > 5 && apart(i) > 25
    && Math.hypot(y_px[i] - 255.5, x_px[i] - 255.5) > 60"""
FROM_CENTRE = """(() => { const s = lodestar.scene; const i = s.rowOf(s.targetId);
  return i < 0 ? 999 : Math.hypot(s.tracks.y_px[i] - 255.5, s.tracks.x_px[i] - 255.5);
})()"""
PLACE = """(id) => { const s = lodestar.scene; const i = s.rowOf(id);
  const box = s.overlay.getBoundingClientRect();
  const [x, y] = s.toScreen(s.tracks.y_px[i], s.tracks.x_px[i]);
  return [x + box.left, y + box.top]; }"""
