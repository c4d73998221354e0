// Mouse, touch and wheel on the picture: pan, pinch, zoom, hover, click.

const CLICK_PX = 5; // a press that moves less is a click

export function watchPointer(scene, { onHover, onClick, onDoubleClick, onDrag, onDrop }) {
  const { overlay } = scene;
  const held = new Map(); // pointerId -> {x, y, x0, y0}
  let moved = false;

  const at = (event) => {
    const box = overlay.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  overlay.addEventListener("wheel", (event) => {
    event.preventDefault();
    scene.zoomAt(Math.exp(-event.deltaY * 0.0015), ...at(event));
  }, { passive: false });

  overlay.addEventListener("pointerdown", (event) => {
    const [x, y] = at(event);
    overlay.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x, y, x0: x, y0: y });
    if (held.size === 1) moved = false;
  });

  overlay.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const pointer = held.get(event.pointerId);
    if (!pointer) {
      onHover?.(x, y);
      return;
    }
    if (Math.hypot(x - pointer.x0, y - pointer.y0) > CLICK_PX) moved = true;
    if (held.size === 2) pinch(event.pointerId, x, y);
    else if (moved && !onDrag?.(pointer, x, y, event)) scene.pan(x - pointer.x, y - pointer.y);
    pointer.x = x;
    pointer.y = y;
  });

  const release = (event) => {
    const pointer = held.get(event.pointerId);
    held.delete(event.pointerId);
    if (moved) onDrop?.();
    if (pointer && !moved && event.type === "pointerup") onClick?.(pointer.x0, pointer.y0, event);
  };
  overlay.addEventListener("pointerup", release);
  overlay.addEventListener("pointercancel", release);
  overlay.addEventListener("pointerleave", () => onHover?.(null, null));
  overlay.addEventListener("dblclick", (event) => onDoubleClick?.(...at(event)));

  function pinch(id, x, y) {
    const [other] = [...held].filter(([key]) => key !== id).map(([, p]) => p);
    const mine = held.get(id);
    const before = Math.hypot(mine.x - other.x, mine.y - other.y);
    const after = Math.hypot(x - other.x, y - other.y);
    if (before > 0) scene.zoomAt(after / before, other.x, other.y);
    moved = true;
  }
}
