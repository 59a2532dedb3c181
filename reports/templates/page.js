"use strict";
// The page is whole without this: it filters the examples, copies listings, and unfolds all for the printer.
for (const box of document.querySelectorAll(".filtered")) {
  const form = box.querySelector("form");
  const shown = form.querySelector(".shown");
  const figures = [...box.querySelectorAll("figure")];
  const apply = () => {
    const asked = [...form.querySelectorAll("select")].filter((one) => one.value);
    for (const figure of figures) {
      figure.hidden = asked.some((one) => figure.dataset[one.dataset.key] !== one.value);
    }
    shown.textContent = `${figures.filter((one) => !one.hidden).length} of ${figures.length}`;
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const listing = document.getElementById(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(listing.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(listing);
      button.textContent = "Selected";
    }
  });
}
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
// A link to what is folded away unfolds it.
const unfold = () => {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let one = place; one; one = one.parentElement) if (one.localName === "details") one.open = true;
  place?.scrollIntoView();
};
addEventListener("hashchange", unfold);
if (location.hash) unfold();
