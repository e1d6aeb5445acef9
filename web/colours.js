// The colours of Hallo3's own sockets and links. The page gives types that it does not know the green of a connected slot,
// in which they look like each other and like core's.
import { app } from "/scripts/app.js";

const COLOURS = {
  HALLO3_AUDIO: "#4db6ac",
  HALLO3_WAV2VEC: "#00897b",
  HALLO3_FACE: "#f48fb1",
  HALLO3_FACE_ANALYSIS: "#d84f7f",
  HALLO3_REFERENCE: "#ba8fe0",
  HALLO3_REFERENCE_NET: "#8e5fc0",
  HALLO3_MOTION: "#dce775",
};

function colour() {
  // On the canvas. A change of the page's palette takes these away again.
  Object.assign(app.canvas?.default_connection_color_byType ?? {}, COLOURS);
  Object.assign(app.canvas?.constructor.link_type_colors ?? {}, COLOURS);
}

app.registerExtension({
  name: "Hallo3.Colours",
  setup() {
    const style = document.createElement("style"); // for nodes that are drawn as HTML
    const rules = Object.entries(COLOURS).map(([type, value]) => `--color-datatype-${type}: ${value};`);
    style.textContent = `:root { ${rules.join(" ")} }`;
    document.head.append(style);
    colour();
    app.ui?.settings?.addEventListener?.("Comfy.ColorPalette.change", () => setTimeout(colour));
  },
  nodeCreated: colour,
  afterConfigureGraph: colour,
});
