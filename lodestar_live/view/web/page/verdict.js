// The verdict of a calibration as a picture: how the camera's axes lie on the stage's.

const ACCEPTED_PX = 0.5; // as control/calibration.py: MAX_RESIDUAL_PX

/** [picture, sentence] of the facts that `lodestar-live calibrate --json` prints. */
export function verdictOf(facts) {
  const text = document.createElement("p");
  const lead = Object.assign(document.createElement("b"), {
    className: facts.refused ? "bad" : "good", textContent: facts.refused ? "Refused. " : "Good. ",
  });
  const angle = Math.abs(facts.rotation_deg) < 0.05 ? 0 : facts.rotation_deg; // no -0.0
  const turn = `${angle.toFixed(1)}°${facts.is_mirrored ? ", mirrored" : ""}`;
  text.append(lead, facts.refused ?? `1 px is ${facts.scale_um_per_px.toPrecision(4)} µm; the camera is turned by ${turn}; places repeat to ${facts.residual_px.toFixed(3)} px (${ACCEPTED_PX} accepted).`);
  return [picture(facts), text];
}

function picture({ matrix_um_per_px: [[a, b], [c, d]], scale_um_per_px: scale }) {
  const box = document.createElement("div");
  const k = 34 / scale;
  // columns of the matrix: one px in y, one px in x, each (y, x) in µm; y points down
  const axes = [["y", a, c, "#5eb1ef"], ["x", b, d, "#ff7a4d"]].map(([name, dy, dx, colour]) => {
    const [x, y] = [Number(k * dx), Number(k * dy)];
    return `<line x2="${x}" y2="${y}" stroke="${colour}" stroke-width="3"/><circle cx="${x}" cy="${y}" r="4" fill="${colour}"/>
      <text x="${1.28 * x - 3}" y="${1.28 * y + 4}" fill="${colour}" font-size="12">${name}</text>`;
  });
  box.innerHTML = `<svg viewBox="-52 -52 104 104" role="img" aria-label="The camera’s axes on the stage’s">
    <path d="M-46 0H46M0-46V46" stroke="#3d4754"/>${axes.join("")}</svg>`; // numbers only
  return box;
}
