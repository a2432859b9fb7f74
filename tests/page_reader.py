"""Reads a page as a browser would, far enough to say what of it could act."""

from html.parser import HTMLParser

# What a report may be made of; nothing here runs or loads anything.
_ELEMENTS = """
    html head meta link title style body header nav main footer section h1 h2 p ol li a figure
    figcaption div table thead tbody tr th td pre code details summary dl dt dd
    svg g defs path rect use text tspan clippath lineargradient stop circle
"""
HARMLESS = set(_ELEMENTS.split())


class PageReader(HTMLParser):
    """Elements, addresses, ids and shown text of a page."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.addresses = []
        self.ids = []
        self.handlers = []
        self._hidden = 0
        self._parts = []
        self._labels = []
        self.feed(page)
        self.close()

    @property
    def text(self):
        """What a reader sees, on one line."""
        return " ".join(" ".join(self._parts).split())

    @property
    def labels(self):
        """What a reader hears of pictures and tables."""
        return self._labels

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self._hidden += tag in ("style", "script")
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                self.addresses.append(value)
            self.handlers += [name] * name.startswith("on")
            self.ids += [value] * (name == "id")
            self._labels += [value] * (name == "aria-label")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._hidden:
            self._parts.append(data)

    @property
    def harmless(self):
        """Whether nothing of it could run or be fetched."""
        inside = all(address.startswith(("#", "data:,")) for address in self.addresses)
        return set(self.elements) <= HARMLESS and inside and not self.handlers
