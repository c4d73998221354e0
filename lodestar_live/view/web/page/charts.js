// Latency and lost frames over time, drawn by uPlot.

import uPlot from "./vendor/uPlot.esm.js";

const KEPT = 600;
const INK = "#8b98a7";

function makeChart(element, series) {
  const axis = { stroke: INK, grid: { stroke: "#2a323d", width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const options = {
    width: element.clientWidth || 300,
    height: 120,
    legend: { show: false },
    cursor: { drag: { x: false, y: false } },
    scales: { x: { time: false }, y: { range: (_u, _low, high) => [0, Math.max(high * 1.15, 1)] } },
    axes: [
      { ...axis, size: 24, values: (_u, ticks) => ticks.map((t) => `${t} s`) },
      { ...axis, size: 40 },
    ],
    series: [{}, ...series.map(([label, stroke]) => ({ label, stroke, width: 1.5, points: { show: false } }))],
  };
  const chart = new uPlot(options, [[], ...series.map(() => [])], element);
  new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: 120 })).observe(element);
  return chart;
}

export class Charts {
  constructor(latencyElement, lostElement) {
    this.latency = makeChart(latencyElement, [["p99", "#f0b429"], ["p50", "#5eb1ef"]]);
    this.lost = makeChart(lostElement, [["lost", "#ff5c5c"]]);
    this.clear();
  }

  clear() {
    this.rows = { t: [], p99: [], p50: [], lost: [] };
    this.draw();
  }

  /** Add heartbeats of a live run. */
  push(list) {
    for (const status of list) {
      const latency = status.latency_ms?.latency ?? {};
      const counts = status.counts ?? {};
      this.rows.t.push(status.t_s);
      this.rows.p50.push(latency.p50 ?? null);
      this.rows.p99.push(latency.p99 ?? null);
      this.rows.lost.push((counts.dropped ?? 0) + (counts.failed ?? 0));
    }
    for (const values of Object.values(this.rows)) values.splice(0, values.length - KEPT);
    this.draw();
  }

  /** Show the whole of a recorded run. */
  setHistory({ t_s, latency_ms, lost }) {
    this.rows = { t: t_s, p99: t_s.map(() => null), p50: latency_ms, lost };
    this.draw();
  }

  draw() {
    const { t, p99, p50, lost } = this.rows;
    this.latency.setData([t, p99, p50]);
    this.lost.setData([t, lost]);
  }
}
