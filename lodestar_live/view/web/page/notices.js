// What an event means to the user, for the line below the buttons.

const NOTICES = {
  "training.started": () => ["learning the particle…", ""],
  "training.finished": () => ["the model is ready", "good"],
  "training.failed": ({ why }) => [`${why} Click a particle, then “Retrain on it”.`, "bad"],
  "retrain.started": () => ["training a new model…", ""],
  "retrain.swapped": ({ why }) => [`new model in use: ${why}`, "good"],
  "retrain.kept": ({ why }) => [`the old model stays: ${why}`, ""],
  "retrain.failed": ({ why }) => [`retraining failed: ${why}`, "bad"],
  "retrain.rolled_back": () => ["the model before is in use again", "good"],
  "run.degraded": ({ why }) => [`degraded: ${why}`, "bad"],
  "run.resumed": () => ["frames are processed again", "good"],
  "recording.degraded": ({ why }) => [`not recording: ${why}`, "bad"],
  "recording.resumed": ({ n_lost: lost }) => [lost ? `recording again; ${lost} frames lost` : "recording again", "good"],
  "run.end": ({ status, reason }) => [reason ? `run ${status}: ${reason}` : `run ${status}`, status === "failed" ? "bad" : ""],
};

/** Return [text, "good" | "bad" | ""], or null when the user need not be told. */
export function noticeOf({ kind, details }) {
  return NOTICES[kind]?.(details ?? {}) ?? null;
}
