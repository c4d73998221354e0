// Print the tracks of every frame as one line of JSON: node tracks.js tcp://127.0.0.1:5556
const zmq = require("zeromq");

// One column is n float64 values in a row, so a view on the bytes is enough.
function decode(header, body) {
  const bytes = body.buffer.slice(body.byteOffset, body.byteOffset + body.length);
  const columns = {};
  header.columns.forEach((name, i) => {
    columns[name] = new Float64Array(bytes, 8 * header.n * i, header.n);
  });
  return columns;
}

async function main(endpoint) {
  const socket = new zmq.Subscriber();
  socket.subscribe("tracks");
  socket.subscribe("end");
  socket.connect(endpoint);
  for await (const [topic, head, body] of socket) {
    const header = JSON.parse(head.toString());
    if (header.v !== 1) throw new Error(`version ${header.v} of the format`);
    if (topic.toString() === "end") break;
    const tracks = decode(header, body);
    const rows = Array.from(tracks.track_id, (id, i) => [id, tracks.y_px[i], tracks.x_px[i]]);
    console.log(JSON.stringify({ frame: header.frame, rows, zIsNaN: Number.isNaN(tracks.z_um[0]) }));
  }
  socket.close();
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
