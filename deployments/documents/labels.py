"""Names that documents give to their fields. Beside a name stands its value, often without a colon between them."""

from __future__ import annotations

import re

_SHARE = r"(?:\s*(?:at |@ ?)?\(?\d{1,2}(?:[.,]\d+)?\s?%\)?)?"
TOTAL = (
    r"(?:sub[\s-]?total|(?:grand |net |gross |invoice )?total(?: net| gross| due| payable| paid)?"
    r"|(?:net|gross|total) amount|amount (?:due|payable|paid)|balance(?: due)?|(?:vat|tax|sales tax|discount|shipping)"
    + _SHARE
    + r")"
)
_OF_WHAT = (
    r"(?:invoice|order|purchase order|p\.?o\.?|customer|client|account|receipt|quotation|quote|contract|policy|claim"
    r"|booking|case|document|vat|tax)"
)
FIELD = (
    r"(?:(?:" + _OF_WHAT + r") ?(?:no\.?|nr\.?|number|id|code|date|#|ref(?:erence)?\.?)"
    r"|(?:due |issue |issued |invoice |delivery |payment )?date|date of issue|(?:payment )?due|(?:payment )?terms"
    r"|(?:our |your )?ref(?:erence)?\.?|tel\.?|telephone|phone|fax|e-?mail|iban|bic|currency)"
)
_MONTH_DAY = r"[A-Z][a-z]+\.? \d"
_STATED = re.compile(rf"\s*((?i:{FIELD}))\s+((?=\S*\d|{_MONTH_DAY})\S.{{0,40}}?)\s*")
_LABEL = re.compile(rf"(?:{TOTAL}|{FIELD})\s*:?", re.I)


def is_label(text: str) -> bool:
    """Whether a text names what stands beside it: it ends with a colon, or it is a usual name of a field."""
    return text.endswith(":") or _LABEL.fullmatch(text.strip()) is not None


def stated(text: str) -> tuple[str, str] | None:
    """Name and value of a line that begins with a usual name and goes on with a number, a code or a date."""
    match = _STATED.fullmatch(text)
    return (match[1], match[2]) if match else None
