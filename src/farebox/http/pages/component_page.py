"""A page that shows the components of the pages, for developers who change them."""

from farebox.http.pages import charts
from farebox.http.pages.table import Shown
from farebox.http.pages.visit import Visit


async def styles(visit: Visit) -> Shown:
    """Every component, with made-up contents."""
    amounts = [0, 3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]
    now = [charts.Value(f"{number:02d}:00", amount, f"{amount} USD") for number, amount in enumerate(amounts)]
    then = [charts.Value(f"{number:02d}:00", amount, f"{amount} USD") for number, amount in enumerate(amounts[::-1])]
    return {"chart": charts.bars("chart", "A chart", "Hour", now, what="Today", then=then, what_then="Yesterday")}
