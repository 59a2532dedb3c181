"use strict";
// Asks axe-core about the page in each frame, and writes down what it calls serious or critical: about all of it in
// light, and about what is other in the dark, which are its colours.
async function asked(frame) {
  const page = frame.contentDocument;
  const script = page.createElement("script");
  script.textContent = AXE;
  page.head.append(script);
  const rules = frame.id.endsWith(" dark") ? { runOnly: ["color-contrast"] } : {};
  const { violations } = await frame.contentWindow.axe.run(page, { resultTypes: ["violations"], ...rules });
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((one) => one.html.slice(0, 200)).join(" | ")}`);
}

addEventListener("load", async () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) found[frame.id] = await asked(frame);
  document.getElementById("found").textContent = JSON.stringify(found);
});
