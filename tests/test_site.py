"""The script of the documentation's site, in a browser."""

import browser
import pytest
from paths import ROOT

PAGE = """<body data-md-color-scheme="{scheme}"><picture>
<source media="(prefers-color-scheme: dark)" srcset="dark.svg"><img src="light.svg"></picture>
<script>{script}</script></body>"""
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'


@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium here")
def test_pictures_are_dark_where_the_page_is(tmp_path):
    """Not where the system is: a reader may choose, and the site keeps that."""
    for name in ("light", "dark"):
        (tmp_path / f"{name}.svg").write_text(PICTURE)
    file, script = tmp_path / "page.html", (ROOT / "docs" / "site.js").read_text()
    file.write_text(PAGE.format(scheme="default", script=script))
    tab = browser.Browser()
    try:
        tab.open(file.as_uri(), dark=True)
        shows = "document.querySelector('img').currentSrc.endsWith('{}.svg')"
        assert tab.wait(shows.format("light"))
        tab.run("document.body.dataset.mdColorScheme = 'slate'")
        assert tab.wait(shows.format("dark"))
    finally:
        tab.close()
