// Hallo3 Voice plays its recording on the node, as core's Load Audio does. The page adds the player to core's nodes only.
import { app } from "/scripts/app.js";

app.registerExtension({
  name: "Hallo3.Voice",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const inputs = nodeData.name === "Hallo3Voice" && nodeData.input?.required;
    if (!inputs || inputs.audioUI) return;
    const upload = inputs.upload; // the button looks for the player that stands before it
    delete inputs.upload;
    inputs.audioUI = ["AUDIO_UI", {}];
    if (upload) inputs.upload = upload;
  },
});
