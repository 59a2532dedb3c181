"use strict";
// Looks at pages in frames as a reader meets them, and writes down what is wrong with each.
const RGB = /[\d.e-]+/g;

function colour(text) {
  const parts = text.match(RGB).map(Number);
  const unit = text.startsWith("color(") ? 255 : 1;
  return { rgb: parts.slice(0, 3).map((one) => one * unit), alpha: parts.length > 3 ? parts[3] : 1 };
}

function over(top, bottom, alpha) {
  return bottom.map((one, place) => alpha * top[place] + (1 - alpha) * one);
}

function behind(element) {
  const layers = [];
  for (let one = element; one; one = one.parentElement) layers.push(colour(getComputedStyle(one).backgroundColor));
  return layers.reverse().reduce((found, { rgb, alpha }) => over(rgb, found, alpha), [255, 255, 255]);
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((one) => {
    const share = one / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function* faintTexts(page) {
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
    if (!element.checkVisibility() || element.closest(".unseen")) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const ink = colour(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [low, high] = [luminance(over(ink.rgb, ground, ink.alpha)), luminance(ground)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    if (contrast < (large ? 3 : 4.5)) yield `contrast ${contrast.toFixed(2)}: ${node.data.trim().slice(0, 40)}`;
  }
}

function* structure(page) {
  let before = 0;
  for (const one of page.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const level = Number(one.tagName[1]);
    if (level > before + 1) yield `heading ${one.textContent.trim()} skips a level`;
    before = level;
  }
  if (page.querySelectorAll("h1").length !== 1) yield "not one h1";
  if (!page.documentElement.lang) yield "no language";
  for (const one of page.images) if (!one.alt) yield "an image without a text";
  for (const one of page.querySelectorAll("svg[role=img]")) {
    if (!one.querySelector("title")?.textContent.trim()) yield "a drawing without a title";
  }
  for (const one of page.querySelectorAll("svg:not([role=img]):not(svg svg)")) {
    if (one.getAttribute("aria-hidden") !== "true") yield "a drawing that is neither told nor hidden";
  }
  for (const one of page.querySelectorAll("th:not([scope])")) yield `th without a scope: ${one.textContent}`;
  for (const one of page.querySelectorAll("select")) if (!one.labels.length) yield "a choice without a label";
  for (const one of page.querySelectorAll("button")) if (!one.textContent.trim()) yield "a button without a text";
  for (const one of page.querySelectorAll(".scroll, nav")) if (!one.ariaLabel) yield "a region without a name";
  const regions = [...page.querySelectorAll("[role=region], section[aria-label], nav")].map((one) => one.ariaLabel);
  for (const one of regions) if (regions.indexOf(one) !== regions.lastIndexOf(one)) yield `region twice: ${one}`;
  for (const one of page.querySelectorAll("th")) if (!one.innerText.trim() && one.checkVisibility()) yield "an empty th";
  for (const one of page.querySelectorAll(".scroll")) if (one.tabIndex !== 0) yield "no way to scroll by keys";
  const names = [...page.querySelectorAll("[id]")].map((one) => one.id);
  for (const one of names) if (names.indexOf(one) !== names.lastIndexOf(one)) yield `id twice: ${one}`;
  for (const one of page.links) {
    const within = one.getAttribute("href").startsWith("#");
    if (within && !page.getElementById(one.hash.slice(1))) yield `a link leads nowhere: ${one.hash}`;
  }
}

function* layout(page, frame) {
  const wide = page.scrollingElement.scrollWidth;
  if (wide > frame.clientWidth) yield `${wide} wide in ${frame.clientWidth}`;
  for (const one of page.querySelectorAll(".plot")) {
    if (one.checkVisibility() && one.clientWidth < 60) yield `no room for bars: ${one.clientWidth} wide`;
  }
  for (const one of page.querySelectorAll(".scroll caption")) {
    const room = one.closest(".scroll").clientWidth;
    if (one.clientWidth > room) yield `a caption is cut: ${one.textContent.trim().slice(0, 40)}`;
  }
  for (const one of page.querySelectorAll(frame.dataset.first || "none")) {
    const end = one.getBoundingClientRect().bottom;
    if (end > frame.clientHeight) yield `below the fold, at ${Math.round(end)}: ${one.textContent.trim().slice(0, 60)}`;
  }
}

function* filters(page) {
  for (const form of page.querySelectorAll(".filters")) {
    if (!form.checkVisibility()) yield "the filters are not shown";
    const figures = [...form.parentElement.querySelectorAll("figure")];
    const shown = () => figures.filter((one) => one.checkVisibility());
    for (const choice of form.querySelectorAll("select")) {
      for (const option of choice.options) {
        choice.value = option.value;
        choice.dispatchEvent(new Event("change", { bubbles: true }));
        const fit = figures.filter((one) => !option.value || one.dataset[choice.dataset.key] === option.value);
        if (!fit.length || shown().length !== fit.length) yield `filter ${option.value}: ${shown().length} shown`;
        if (!form.textContent.includes(`${fit.length} of ${figures.length}`)) yield "the count is wrong";
      }
      choice.value = "";
      choice.dispatchEvent(new Event("change", { bubbles: true }));
    }
  }
  for (const one of page.querySelectorAll(".copy")) if (one.hidden) yield "nothing copies";
}

function* requests(frame) {
  for (const one of frame.contentWindow.performance.getEntriesByType("resource")) {
    if (!one.name.startsWith("data:")) yield `a request: ${one.name}`;
  }
}

addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    const checks = [structure(page), layout(page, frame), faintTexts(page), filters(page), requests(frame)];
    found[frame.id] = [...new Set(checks.flatMap((one) => [...one]))];
    const dark = frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches;
    found[frame.id].unshift(dark ? "dark" : "light");
  }
  document.getElementById("found").textContent = JSON.stringify(found);
});
