// KaTeX draws the equations that arithmatex has marked: \(inline\) and \[displayed\].
for (const place of document.querySelectorAll(".arithmatex")) {
  const text = place.textContent.trim();
  katex.render(text.slice(2, -2), place, { displayMode: text.startsWith("\\["), throwOnError: false });
}

// Pictures are dark where the page is, which a reader may have chosen, and not where the system is.
function follow() {
  const dark = document.body.dataset.mdColorScheme === "slate";
  for (const source of document.querySelectorAll("picture source")) {
    source.media = dark ? "all" : "not all";
  }
}
follow();
new MutationObserver(follow).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
