"""Every resource of the control plane goes through its whole life cycle with both of Cloudflare's official SDKs.

It is created, read, listed, paged, changed and deleted. Invalid input, duplicates and access to another account's
resource are refused and change nothing. Farebox's own resources are called by the SDKs' methods for arbitrary paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.http.resource_lifecycles import (
    ELSEWHERE,
    LIFECYCLES,
    STORIES,
    UNKNOWN,
    ResourceLifecycle,
    routes_of_accounts,
)
from tests.http.sdk_drivers import Driver, PythonDriver, SdkResponse, node_driver
from tests.node.programs import installed_node
from tests.support import Customer, Farebox

FOREIGN = (403, 10000)
NOTHING: Mapping[str, Any] = {}


@pytest.fixture(scope="module", params=["python", "typescript"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    if request.param == "python":
        yield PythonDriver()
        return
    with node_driver(installed_node()) as made:
        yield made


class Asking:
    """One customer's requests for one kind of resource, their own or another customer's."""

    def __init__(self, driver: Driver, life: ResourceLifecycle, who: Customer, values: dict[str, str]) -> None:
        self.driver, self.life, self.who, self.values = driver, life, who, values
        self.account_id = who.account_id
        self.succeeded: set[tuple[str, str]] = set()

    def __call__(self, method: str, name: str, item: str = "", fields: Mapping[str, Any] = NOTHING) -> SdkResponse:
        operation = self.life.operation(method, name)
        place = self.life.item.strip("{}")
        response = self.driver.ask(self.who, self.account_id, operation, self.values | {place: item}, fields)
        if response.status < 300:
            self.succeeded.add((method, operation.path))
        return response

    def create(self, item: str, fields: Mapping[str, Any]) -> SdkResponse:
        return self("PUT" if self.life.named else "POST", "create", item, fields)

    def get(self, item: str) -> SdkResponse:
        """The item as it is read, or as in the list if it cannot be read alone."""
        if self.life.reads:
            return self("GET", "get", item)
        found = [one for one in self.all() if one[self.life.id] == item]
        return SdkResponse(200, found[0]) if found else SdkResponse(*UNKNOWN[:1], errors=[{"code": UNKNOWN[1]}])

    def change(self, item: str, fields: Mapping[str, Any]) -> SdkResponse:
        assert self.life.change is not None
        return self(self.life.change[0], "update", item, fields)

    def stored(self, item: str) -> dict[str, Any]:
        """The item as it is read, without fields that a job may have written since."""
        found = self.get(item).result
        return {name: value for name, value in found.items() if name not in self.life.written_later}

    def delete(self, item: str) -> SdkResponse:
        return self("DELETE", "delete", item)

    def all(self, **query: Any) -> list[dict[str, Any]]:
        response = self("GET", "list", fields=query)
        assert response.status == 200, response
        return self.life.shown_all(response.result)

    def ids(self, **query: Any) -> list[str]:
        return [str(one[self.life.id]) for one in self.all(**query)]


def made(asking: Asking, number: int, **changed: Any) -> tuple[str, SdkResponse]:
    """Create the item with this number; its fields and ID."""
    life, item = asking.life, f"n{number}"
    fields = life.body(number, asking.values) | changed
    response = asking.create(item, fields)
    if response.status >= 300:
        return item, response
    shown = life.shown(response.result)
    expected = {name: value for name, value in fields.items() if name not in life.hidden}
    assert {name: shown.get(name) for name in expected} == expected
    return str(shown[life.id]), response


def prepared(driver: Driver, life: ResourceLifecycle, who: Customer) -> Asking:
    """A gateway, and the other resources that it needs."""
    values = {"gateway_id": "of-lives"}
    if "{gateway_id}" in life.path or life.needs:
        gateways = Asking(driver, next(each for each in LIFECYCLES if each.name == "gateways"), who, values)
        fields = gateways.life.body(1, values) | {"id": "of-lives"}
        assert gateways.create("", fields).status == 200
    for name in life.needs:
        needed = next(each for each in LIFECYCLES if each.name == name)
        values[name], response = made(Asking(driver, needed, who, values), 9)
        assert response.status < 300, response
    return Asking(driver, life, who, values)


@pytest.mark.parametrize("life", LIFECYCLES, ids=lambda life: life.name)
def test_the_life_cycle_of_a_resource(farebox: Farebox, driver: Driver, life: ResourceLifecycle) -> None:
    asking = prepared(driver, life, farebox.funded("1"))
    before = asking.ids()
    first, response = made(asking, 1)
    assert response.status < 300, response
    second, _ = made(asking, 2)
    is_read(asking, first, life.shown(response.result))
    is_listed(asking, before, first, second)
    is_refused(asking, first)
    is_changed(asking, first)
    is_foreign(asking, prepared(driver, life, farebox.funded("1")), first)
    is_deleted(asking, first, second)
    assert asking.succeeded == life.operations()


def is_read(asking: Asking, item: str, as_made: Mapping[str, Any]) -> None:
    found = asking.get(item).result
    for name in set(as_made) & set(found) - {"secret", *asking.life.written_later}:
        assert found[name] == as_made[name], name
    assert asking.get("nothing-of-this-name").code == asking.life.gone


def is_listed(asking: Asking, before: list[str], *items: str) -> None:
    """Also in pages of one item, where the SDK must fetch all pages and stop at the end."""
    assert sorted(asking.ids()) == sorted([*before, *items])
    if asking.life.pages:
        pages = [asking.ids(page=number, per_page=1) for number in (1, 2)]
        listed = pages[0] if asking.life.operation("GET", "list").sdk else [*pages[0], *pages[1]]
        assert len(set(listed)) == len(listed) >= 2
        assert set(listed) <= {*before, *items}


def is_refused(asking: Asking, item: str) -> None:
    """Duplicates and invalid fields are refused."""
    life, there = asking.life, asking.ids()
    _, again = made(asking, 1)
    if life.duplicate is None:
        asking.delete(str(life.shown(again.result)[life.id]))
    elif not life.named:
        assert again.code == life.duplicate
    for changed, place in life.wrong:
        response = asking.create("n3", life.body(3, asking.values) | changed)
        assert response.status == 400, (changed, response)
        assert place in response.paths, (changed, response)
        assert all(error["message"] for error in response.errors)
        if life.change is not None and set(changed) <= set(life.change[1]):
            stored = asking.stored(item)
            assert place in asking.change(item, life.change[1] | changed).paths
            assert asking.stored(item) == stored
    unknown = asking.create("n3", life.body(3, asking.values) | {"no_such_field": 1})
    assert unknown.status == 400, unknown
    assert asking.ids() == there


def is_changed(asking: Asking, item: str) -> None:
    life = asking.life
    if life.change is None:
        return
    response = asking.change(item, life.change[1])
    assert response.status == 200, response
    expected = life.changed or life.change[1]
    assert {name: response.result.get(name) for name in expected} == expected
    found = asking.get(item).result
    shown = {name: value for name, value in expected.items() if name in found}
    assert {name: found[name] for name in shown} == shown
    assert asking.change("nothing-of-this-name", life.change[1]).code == life.gone or life.named
    if life.named:
        asking.delete("nothing-of-this-name")


def is_foreign(asking: Asking, other: Asking, item: str) -> None:
    """Another account does not see it in its own lists, and learns nothing about the owner's."""
    stored = asking.stored(item)
    assert item not in other.ids() or asking.life.id != "id" or asking.life.name.startswith("gateways")
    assert other.get(item).code == asking.life.gone
    assert other.delete(item).code == asking.life.gone
    if asking.life.change is not None and not asking.life.named:
        assert other.change(item, asking.life.change[1]).code == asking.life.gone
    other.account_id = asking.account_id
    responses = [other("GET", "list"), other.delete(item), other.create("n4", other.life.body(4, other.values))]
    if asking.life.reads:
        responses.append(other("GET", "get", item))
    if asking.life.change is not None:
        responses.append(other.change(item, asking.life.change[1]))
    assert {response.code for response in responses} == {FOREIGN}
    assert asking.stored(item) == stored


def is_deleted(asking: Asking, item: str, other: str) -> None:
    assert asking.delete(item).status == 200
    assert asking.get(item).code == asking.life.gone
    assert asking.delete(item).code == asking.life.gone
    if asking.life.change is not None and not asking.life.named:
        assert asking.change(item, asking.life.change[1]).code == asking.life.gone
    assert item not in asking.ids()
    assert other in asking.ids()


@pytest.mark.parametrize("name", STORIES)
def test_the_steps_of_a_story(farebox: Farebox, driver: Driver, name: str) -> None:
    owner, other = farebox.funded("1"), farebox.funded("1")
    values = {"gateway_id": "default", "provider": "demo"}
    for _ in range(2):
        assert owner.chat().status_code == 200
    for step in STORIES[name]:
        fields = step.fields(values) if callable(step.fields) else step.fields
        refused = driver.ask(other, owner.account_id, step.operation, values, fields)
        assert refused.code == FOREIGN, step
        response = driver.ask(owner, owner.account_id, step.operation, values, fields)
        assert response.code == step.code, (step, response)
        assert not step.place or step.place in response.paths, (step, response)
        same(response.result, step.result)
        values |= {kept: str(part(response.result, where)) for kept, where in step.keep.items()}


def part(result: Any, where: str) -> Any:
    for name in where.split("."):
        result = result[int(name)] if isinstance(result, list) else result[name]
    return result


def same(result: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert len(result) == len(expected), result
    elif isinstance(expected, dict):
        for where, value in expected.items():
            found = part(result, where)
            if isinstance(value, list):
                same(found, value)
            else:
                assert found == value, (where, result)


def test_no_resource_is_forgotten() -> None:
    """A new route must be in the table or be declared as tested elsewhere; and the declarations must be true."""
    lived = {operation for life in LIFECYCLES for operation in life.operations()}
    lived |= {(step.method, step.path) for steps in STORIES.values() for step in steps if step.code == (200, 0)}
    left = routes_of_accounts() - lived
    elsewhere = {route for route in left if any(_begins(route[1], start) for start in ELSEWHERE)}
    assert left == elsewhere
    assert lived <= routes_of_accounts()
    for start in ELSEWHERE:
        assert any(_begins(path, start) for _, path in left), start


def _begins(path: str, start: str) -> bool:
    return path == start or (bool(start) and path.startswith(f"{start}/"))
