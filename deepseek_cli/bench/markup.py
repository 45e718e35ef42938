"""What the XML files here share: text that XML can hold, and writing it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def legal(text: str) -> str:
    """Names come from files: whatever XML has no character for becomes a replacement character."""
    return ILLEGAL.sub("\ufffd", text)


def indented(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
