"""Dynamic routes on the pages: drawn, edited as fields and as JSON without scripts, saved as versions, deployed."""

import json
import re
from html import unescape
from typing import Any

import httpx
import pytest

from farebox.http.pages.route_form import elements_of, examples, is_plain
from farebox.http.pages.route_picture import picture
from farebox.model import Role
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Customer, Farebox

HOSTILE = """"><script>alert(1)</script>"""
ROUTES = "/ui/gateways/default/routes"
NEW = "/ui/gateways/default/new-route"


def leads(**names: str) -> dict[str, Any]:
    return {name: {"elementId": to} for name, to in names.items()}


def model(name: str, slug: str, **fallback: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "properties": {"provider": "demo", "model": slug, "timeout": 1000, "retries": 1},
        "outputs": leads(success="end", **fallback),
    }


EVERYTHING: list[dict[str, Any]] = [
    {"type": "start", "id": "start", "outputs": leads(next="plan")},
    {
        "type": "conditional",
        "id": "plan",
        "properties": {"conditions": {"metadata.plan": {"$in": ["paid", "größer"]}}},
        "outputs": leads(true="limit", false="split"),
    },
    {
        "type": "rate",
        "id": "limit",
        "properties": {"key": "metadata.user", "limit": 2.5, "limitType": "cost", "window": 60, "technique": "sliding"},
        "outputs": leads(success="a", fallback="split"),
    },
    {"type": "percentage", "id": "split", "outputs": {"12.5%": {"elementId": "a"}, "else": {"elementId": "b"}}},
    model("a", "demo-1", fallback="b"),
    model("b", "demo-2"),
    {"type": "end", "id": "end", "outputs": {}},
]


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    made = person(farebox, Role.OWNER, customer.account_id)
    made.get("/ui/gateways")
    return made


def stored(customer: Customer) -> list[dict[str, Any]]:
    """The routes as the API returns them."""
    url = f"{customer.api_url}/ai-gateway/gateways/default/routes"
    found: list[dict[str, Any]] = httpx.get(url, headers=customer.headers).json()["data"]["routes"]
    return found


@pytest.mark.parametrize(
    ("to", "said"), [("nope", "There is no element with the id “nope”"), ("start", "No output may lead back")]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_start_alone_is_not_saved(owner: Person, customer: Customer, to: str, said: str, as_json: bool) -> None:
    elements = [{"type": "start", "id": "start", "outputs": leads(next=to)}]
    fields = {"json": json.dumps(elements)} if as_json else {"type.0": "start", "elements.0.id": "start"}
    fields |= {} if as_json else {"elements.0.outputs.next.elementId": to}
    page = unescape(owner.submit(NEW, **fields, name="half", do="save"))
    assert said in page
    assert "deployed" not in page
    assert stored(customer) == []


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_a_route_is_drawn_created_called_changed_deployed_and_deleted(owner: Person, customer: Customer) -> None:
    form = form_of(owner.get(NEW, example="fallback").text, **{"type.0": "start"})
    drawn = owner.submit(NEW, **form | {"do": "draw", "name": "support"})
    assert 'role="img" aria-label="A route of 4 elements' in drawn
    assert stored(customer) == []
    created = owner.submit(NEW, **form | {"do": "save", "name": "support"})
    assert "programs name it dynamic/support" in created
    (route,) = stored(customer)
    here = f"{ROUTES}/{route['id']}"
    assert customer.chat("x", model="dynamic/support").status_code == 200

    page = owner.get(f"{here}/edit").text
    form = form_of(page, **{"type.0": "start"})
    added = owner.submit(f"{here}/edit", **form | {"do": "add:percentage"})
    assert "No path leads from the start to the element" in unescape(added)
    form = form_of(added, **{"type.4": "percentage"})
    assert form["elements.4.id"] == "percentage-1"
    form |= {"elements.4.outputs": "100%: first", "elements.0.outputs.next.elementId": "percentage-1"}
    assert "not deployed yet" in owner.submit(f"{here}/edit", **form | {"do": "save"})
    assert len(stored(customer)[0]["elements"]) == 4
    version = re.findall(r'name="version" value="([\w-]+)"', owner.get(here).text)[0]
    assert "Version that is not deployed" in owner.get(here, version=version).text
    assert "is now deployed" in owner.submit(f"{here}/deploy", version=version)
    assert len(stored(customer)[0]["elements"]) == 5
    form = form_of(owner.get(f"{here}/edit").text, **{"type.0": "start"})
    form |= {"elements.0.outputs.next.elementId": "first"}
    assert owner.send(f"{here}/edit", **form | {"do": f"remove:{'9' * 5_000}"}).status_code == 200
    removed = form_of(owner.submit(f"{here}/edit", **form | {"do": "remove:4"}), **{"type.0": "start"})
    assert "is now deployed" in owner.submit(f"{here}/edit", **removed | {"do": "deploy"})
    assert len(stored(customer)[0]["elements"]) == 4

    assert "dynamic/other" in owner.submit(f"{here}/rename", name="other")
    assert "Name: Use text on one line" in owner.submit(f"{here}/rename", name="\x01")
    assert "Deleted" in owner.submit(f"{here}/delete")
    assert stored(customer) == []
    assert owner.get(here).status_code == 404


def test_fields_return_their_values_unchanged(owner: Person, customer: Customer) -> None:
    body = {"name": "everything", "elements": EVERYTHING}
    url = f"{customer.api_url}/ai-gateway/gateways/default/routes"
    route_id = httpx.post(url, headers=customer.headers, json=body).json()["result"]["id"]
    page = owner.get(f"{ROUTES}/{route_id}/edit").text
    assert elements_of(form_of(page, **{"type.0": "start"})) == stored(customer)[0]["elements"]
    text = form_of(page, json=json.dumps(stored(customer)[0]["elements"], indent=2, ensure_ascii=False))["json"]
    assert json.loads(text) == stored(customer)[0]["elements"]
    table = unescape(re.sub(r"<[^>]*>", " ", owner.get(f"{ROUTES}/{route_id}").text))
    for said in ("metadata.plan in paid, größer", "2.5 USD per 60 s, each metadata.user", "12.5%: a, else: b"):
        assert said in table


@pytest.mark.parametrize(
    ("changed", "at", "said"),
    [
        ({"elements.1.properties.conditions": "{"}, "elements.1.properties.conditions", "Enter an object in braces"),
        ({"elements.1.properties.conditions": '{"plan": 1}'}, "elements.1.properties.conditions", "plan"),
        ({"elements.1.outputs.true.elementId": ""}, "elements.1.outputs.true.elementId", "Fill this in"),
        ({"elements.1.outputs.true.elementId": "plan"}, "elements.1.outputs.true.elementId", "circle"),
        ({"elements.2.properties.provider": HOSTILE}, "elements.2.properties.provider", "There is no provider"),
        ({"elements.2.properties.retries": "9"}, "elements.2.properties.retries", "a number of at most 5"),
        ({"elements.3.id": HOSTILE}, "elements.1.outputs.false.elementId", "There is no element"),
        ({"elements.3.id": ""}, "elements.3.id", "Fill this in"),
        ({"name": "x" * 65}, None, "Name: Enter at most 64 characters"),
        ({"name": ""}, None, "Name: Fill this in"),
    ],
)  # fmt: skip
def test_errors_are_shown_at_their_element_and_nothing_is_saved(
    owner: Person, customer: Customer, changed: dict[str, str], at: str | None, said: str
) -> None:
    form = form_of(owner.get(NEW, example="condition").text, **{"type.0": "start"})
    page = owner.submit(NEW, **form | {"do": "save", "name": "x"} | changed)
    assert "this is not a complete route yet" in page
    assert "<script>alert" not in page
    shown = rf'<p id="{re.escape(at)}-fault" class="hint bad">([^<]*)</p>' if at else r'<p class="note bad">([^<]*)</p>'
    found = re.search(shown, page)
    assert found is not None, page
    assert said in unescape(found.group(1))
    assert at is None or ' bad"><title>' in page, "its element is marked in the picture"
    assert stored(customer) == []


@pytest.mark.parametrize("text", ["", "{", "3", '"x"', "[3]", '[{"id": 1}]', '[{"type": "x", "id": "a"}]', "[" * 500])
def test_json_that_is_not_a_route_is_explained(owner: Person, customer: Customer, text: str) -> None:
    page = owner.submit(NEW, do="save", name="x", json=text)
    assert "this is not a complete route yet" in page
    assert re.search(r'<p class="note bad">[^<]+</p>', page)
    assert stored(customer) == []


def test_json_names_the_element_that_is_wrong(owner: Person, customer: Customer) -> None:
    broken = [{**each, "outputs": leads(success="nowhere")} if each["id"] == "b" else each for each in EVERYTHING]
    many = [model(f"m{number}", "demo-1") for number in range(40)]  # too many elements to show as fields
    page = unescape(owner.submit(NEW, do="save", name="x", json=json.dumps([*broken, *many])))
    assert "Element 6 “b”, outputs.success.elementId: There is no element with the id “nowhere”" in page
    assert "saved" not in owner.submit(NEW, do="save", name="fine", json=json.dumps(EVERYTHING))
    assert [route["name"] for route in stored(customer)] == ["fine"]


def test_invalid_routes_are_drawn_too() -> None:
    circle = [{"type": "model", "id": name, "outputs": leads(success=to)} for name, to in (("a", "b"), ("b", "a"))]
    for elements in (circle, EVERYTHING[:1], [{"type": "end", "id": "x", "outputs": 3}], EVERYTHING):
        assert is_plain(elements)
        drawn = picture(elements)
        assert len(drawn.nodes) == len(elements)
        places = [(node.x, node.y) for node in drawn.nodes]
        assert len(set(places)) == len(places), "no element hides another"
        assert all(0 <= x <= drawn.width - 200 and 0 <= y <= drawn.height - 56 for x, y in places)
    assert not is_plain([*EVERYTHING, EVERYTHING[0]])


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"metadata.plan": "paid"}, "metadata.plan = paid"),
        ({"metadata.n": {"$gte": 1, "$lt": 5}}, "metadata.n ≥ 1, metadata.n < 5"),
        ({"metadata.a": {"$nin": ["x", 1, True, None]}}, "metadata.a not in x, 1, true, null"),
        (
            {"metadata.a": {"$exists": False}, "headers.b": {"$exists": True}},
            "metadata.a does not exist, headers.b exists",
        ),
        ({"metadata.a": {"$not": {"$eq": None}}}, "not (metadata.a = null)"),
        (
            {"$and": [{"metadata.a": True}, {"$or": [{"metadata.b": {"$gt": 5}}, {"$not": {"body.c": "x"}}]}]},
            "(metadata.a = true) and ((metadata.b > 5) or (not (body.c = x)))",
        ),
        ({"$nor": [{"metadata.a": 1}, {"metadata.b": 2}]}, "not ((metadata.a = 1) or (metadata.b = 2))"),
    ],
)
def test_conditions_in_words(owner: Person, customer: Customer, conditions: dict[str, Any], said: str) -> None:
    elements = [{**each, "properties": {"conditions": conditions}} if each["type"] == "conditional" else each
                for each in EVERYTHING]  # fmt: skip
    assert "programs name it" in owner.submit(NEW, do="save", name="x", json=json.dumps(elements))
    page = owner.get(f"/ui/gateways/default/routes/{stored(customer)[0]['id']}").text
    assert f">{said}<" in unescape(page)


@pytest.mark.parametrize("around", ['{"$not":%s}', '{"metadata.a":{"$not":%s}}', '{"$and":[%s]}', "[%s]"])
def test_deeply_nested_conditions_are_explained(owner: Person, customer: Customer, around: str) -> None:
    """Also those that can just be decoded: how deep that is depends on the stack at that point."""
    begin, end = around.split("%s")
    for depth in (12, 450, *range(900, 1000, 5)):
        deep = begin * depth + "1" + end * depth
        inner = f'{{"metadata.a":{deep}}}' if around == "[%s]" else deep
        route = json.dumps(EVERYTHING).replace('"conditions": {', f'"conditions": {inner}, "condition": {{', 1)
        page = owner.submit(NEW, do="save", name="x", json=route)
        assert "this is not a complete route yet" in page
    assert stored(customer) == []


def test_the_size_of_a_drawing_is_bounded() -> None:
    shares = [
        {
            "type": "percentage",
            "id": f"p{at}",
            "outputs": {f"{share}%": {"elementId": f"p{at + share}"} for share in range(1, 7)},
        }
        for at in range(90)
    ]
    skips = [{"type": "percentage", "id": f"p{at}", "outputs": leads(far="p89", near=f"p{at + 1}")} for at in range(90)]
    for elements in (shares, skips):
        drawn = picture(elements)
        assert len(drawn.nodes) == 90
        assert sum(line.path.count("C") for line in drawn.lines) < 1_500


def test_every_example_is_a_valid_route(owner: Person, customer: Customer) -> None:
    for name in examples("demo/demo-1", "demo/demo-2"):
        form = form_of(owner.get(NEW, example=name).text, **{"type.0": "start"})
        assert "programs name it" in owner.submit(NEW, **form | {"do": "save", "name": name})


def test_a_draft_that_the_api_created_is_not_shown_as_deployed(owner: Person, customer: Customer) -> None:
    """For the API it is the version in use, with a deployment, although there is nothing to call."""
    url = f"{customer.api_url}/ai-gateway/gateways/default/routes"
    start = {"type": "start", "id": "start", "outputs": leads(next="start")}
    response = httpx.post(url, headers=customer.headers, json={"name": "begun", "elements": [start]})
    made = response.json()["result"]
    assert made is not None, response.text
    assert (made["version"]["active"], made["version"]["is_valid"]) == ("true", False)
    here = f"{ROUTES}/{made['id']}"
    page = owner.get(here).text
    assert re.findall(r'class="badge (\w+)">(\w+)<', page) == [("warn", "draft")]
    assert "calls to the route are refused" in page
    assert "No version has been deployed yet." in page
    assert "Deployed version" not in page
    assert "eploy this version" not in page
    drawn = picture([start])
    assert all(line.y < drawn.height for line in drawn.lines), "nothing is cut off"

    body = {"elements": EVERYTHING}
    version = httpx.post(f"{url}/{made['id']}/versions", headers=customer.headers, json=body).json()["result"]
    page = owner.submit(f"{here}/deploy", version=version["version_id"])
    assert sorted(re.findall(r'class="badge (\w+)">(\w+)<', page)) == [("good", "deployed"), ("warn", "draft")]
    deployments = page[page.index('id="deployments"') :]
    assert deployments.count("?version=") == 1, "the draft never was in use"
    page = owner.get(here, version=made["version"]["version_id"]).text
    assert "See the deployed version" in page
    assert "calls to the route are refused" not in page
    assert "eploy this version" not in page, "a draft cannot be deployed"
