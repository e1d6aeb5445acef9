// The text that a node shows fits, and stays when the run is over.
// On the canvas the page gives every text two lines and cuts off the rest; nodes that are drawn as HTML grow by themselves.
// Newer pages take all texts away when a run ends, warnings and all: those of our nodes are shown again.
import { app } from "/scripts/app.js";

const TEXT = "$$node-text-preview"; // the page's name of the widget that holds the text
const FONT = "12px Inter, Arial, sans-serif";
const LINE = 16, AROUND = 40, BESIDE = 52; // pixels: a line, the space above and below, left and right
const TALLEST = 200; // beyond it the page's text scrolls

const pen = document.createElement("canvas").getContext("2d");

function lines(text, width) {
  pen.font = FONT;
  const wraps = (line) => Math.max(1, Math.ceil((1.08 * pen.measureText(line).width) / width));
  return text.split("\n").reduce((count, line) => count + wraps(line), 0);
}

const isOurs = (node) => node?.type?.startsWith("Hallo3") || node?.subgraph?.nodes.some(isOurs);

// A node by the server's name for it: "12", or "12:5" inside the subgraph 12.
function find(id) {
  let graph = app.rootGraph ?? app.graph, node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

function fit(node) {
  const widget = node.widgets?.find((each) => each.name === TEXT);
  if (!widget?.options || globalThis.LiteGraph?.vueNodesMode) return;
  const needed = AROUND + LINE * lines(String(widget.value ?? ""), node.size[0] - BESIDE);
  widget.options.getMinHeight = () => Math.min(TALLEST, needed);
  const [width, height] = node.computeSize();
  if (node.size[1] < height) node.setSize([Math.max(node.size[0], width), height]);
  node.setDirtyCanvas?.(true, true);
}

const texts = new Map(); // of this run, by the server's name for the node

function showAgain() {
  for (const [nodeId, text] of texts) {
    const node = find(nodeId);
    const isThere = node?.widgets?.some((each) => each.name === TEXT);
    if (node && !isThere && text.trim()) app.api.dispatchCustomEvent?.("progress_text", { nodeId, text });
  }
}

app.registerExtension({
  name: "Hallo3.Messages",
  setup() {
    app.api.addEventListener("progress_text", ({ detail }) => {
      const node = find(detail.nodeId);
      if (!isOurs(node)) return;
      texts.set(detail.nodeId, detail.text);
      setTimeout(() => fit(node)); // after the page has put the text on the node
    });
    app.api.addEventListener("execution_start", () => texts.clear());
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      app.api.addEventListener(end, () => setTimeout(showAgain, 200));
    }
  },
});
