"""The page in a real browser: sliders, answers, keyboard, policy."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from server.app import create_app
from server.settings import Settings
from tests.server.listening import listening
from tests.server.samples import image
from tests.server.ui.conftest import Open

pytestmark = pytest.mark.slow


def ready(page: Page) -> None:
    """Wait until both picks are on the front."""
    for side in ("a", "b"):
        expect(page.locator(f"[data-pick={side}][data-flops]")).to_be_visible()


def until(page: Page, condition: str) -> None:
    """Wait for a condition in JavaScript, which may ask what FLOPs the front shows of a pick."""
    pick = (
        "const pick = (side) => Number(document.querySelector(`[data-pick=${side}]`).dataset.flops)"
    )
    page.wait_for_function(f"() => {{ {pick}; return {condition}; }}")


def test_budgets_from_the_keyboard_move_their_picks_alone(visit: Open) -> None:
    seen = visit("tiny")
    page = seen.page
    ready(page)
    before, whole = seen.flops("a"), seen.flops("b")
    assert before < whole
    page.locator("#budget-a").focus()
    page.keyboard.press("Home")
    until(page, f"pick('a') < {before}")
    assert seen.flops("b") == whole
    page.keyboard.press("End")
    until(page, f"pick('a') === {whole}")
    expect(page.locator("#live")).to_contain_text("A: 100 % of the compute")
    assert (page.locator("#budget-a").get_attribute("aria-valuetext") or "").startswith("100 %")


def test_weights_move_the_pick_to_what_matters(visit: Open) -> None:
    page = visit("tiny").page
    ready(page)
    of_fish = page.locator(".task[data-task=fish]")
    before = of_fish.locator(".expected.a .figure").inner_text()
    for name in ("flowers", "people"):
        page.get_by_label(name).fill("0")
    expect(of_fish.locator(".expected.a .figure")).not_to_have_text(before)
    page.get_by_role("button", name="Equal weights").click()
    expect(of_fish.locator(".expected.a .figure")).to_have_text(before)


def test_an_image_gives_classes_at_both_budgets_with_receipts(visit: Open) -> None:
    page = visit("tiny").page
    page.locator("input[type=file]").set_input_files(
        {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": image()}
    )
    for side in ("a", "b"):
        card = page.locator(f".answer.{side}")
        expect(card.locator(".line")).to_have_count(3)
        expect(card.locator(".receipt dl")).to_contain_text("of the whole model's score")
    # Answers follow the slider.
    expect(page.locator(".answer.b h3")).to_contain_text("100 % of the compute")
    page.locator("#budget-b").fill("0")
    expect(page.locator(".answer.b h3")).not_to_contain_text("100 %")


def test_an_image_gives_maps_that_lie_over_it(visit: Open) -> None:
    page = visit("maps").page
    page.get_by_role("button", name="Draw one").click()
    for side in ("a", "b"):
        for task, legend in (("parts", "sky, sea, land"), ("depth", "distance: ")):
            figure = page.locator(f".answer.{side} .map[data-task={task}]")
            expect(figure.locator(".legend")).to_contain_text(legend)
            colours = figure.locator("canvas").evaluate(
                "(one) => new Set(one.getContext('2d')"
                ".getImageData(0, 0, one.width, one.height).data).size"
            )
            assert colours > 1
            cover = figure.get_by_role("slider", name=f"How much of {task} covers the image")
            cover.fill("0.2")
            expect(figure.locator("canvas")).to_have_css("opacity", "0.2")


def test_texts_are_ranked_at_both_budgets(visit: Open) -> None:
    page = visit("tiny-text").page
    page.get_by_label("Query").fill("w1 w2")
    page.get_by_label("Texts to rank").fill("w3 w4 w5\nw1 w2 w3\n\nw6")
    page.get_by_label("Texts to rank").press("Control+Enter")
    for side in ("a", "b"):
        expect(page.locator(f".answer.{side} .ranked li")).to_have_count(3)
        expect(page.locator(f".answer.{side} .receipt dl")).to_contain_text("subnet")
    page.get_by_label("in stages").check()
    expect(page.locator(".answer.b .ranked .chip").first).to_be_visible()
    expect(page.locator(".answer.b .receipt dl")).to_contain_text("stages")


@pytest.mark.parametrize("model", ["tiny", "tiny-text", "maps"])
def test_every_control_has_a_name_and_nothing_is_wider_than_a_phone(
    visit: Open, model: str
) -> None:
    page = visit(model, width=360).page
    ready(page)
    page.get_by_role("button", name="Open").click()
    page.get_by_label("Good for days").wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll(':is(input, select, textarea, button)')]
            .filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent)
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_scripts_that_are_not_the_servers_do_not_run(visit: Open) -> None:
    seen = visit("tiny")
    ready(seen.page)
    ran = seen.page.evaluate(
        """() => {
            const script = document.createElement('script');
            try { script.textContent = 'window.ran = true'; } catch { return 'refused'; }
            document.body.append(script);
            return window.ran;
        }"""
    )
    assert ran == "refused"
    assert seen.faults  # which the console tells
    seen.faults.clear()


def test_the_load_is_told_while_it_is_seen(visit: Open) -> None:
    page = visit("tiny-text").page
    ready(page)
    page.get_by_role("button", name="Answer at both").click()
    expect(page.locator(".answer.b .ranked")).to_be_visible()
    page.locator("#load").scroll_into_view_if_needed()
    expect(page.locator("#histogram-caption")).to_contain_text("requests to tiny-text")
    expect(page.locator("#tiles")).to_contain_text("Price of compute")


def test_the_first_key_leaves_the_page_open(
    chromium: Browser, page_settings: Settings, tmp_path: Path
) -> None:
    settings = page_settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'c.db'}"})
    with listening(create_app(settings)) as host, chromium.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.goto(f"http://{host}/ui")
        page.get_by_role("button", name="Open").click()
        page.get_by_role("button", name="Make key").click()
        expect(page.locator("#admin-state")).to_contain_text("Give it all scopes")
        for scope in ("metrics", "admin"):
            page.get_by_role("checkbox", name=scope).check()
        page.get_by_role("button", name="Make key").click()
        expect(page.locator("#key-made code")).to_be_visible()
        expect(page.locator("#admin-state")).to_have_text("The key is made.")
        page.locator("#budget-a").fill("0")
        expect(page.locator("#budget-a")).to_have_attribute("aria-valuetext", re.compile("FLOPs"))
        assert not page.locator("#key-dialog").is_visible()
        assert httpx.get(f"http://{host}/v1/models").status_code == 401


def test_where_keys_exist_the_page_asks_for_one_and_admins_make_more(
    chromium: Browser, page_settings: Settings, tmp_path: Path
) -> None:
    settings = page_settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'c.db'}"})
    with listening(create_app(settings)) as host, chromium.new_context() as context:
        made = httpx.post(f"http://{host}/v1/keys", json={"scopes": ["infer", "admin"]}).json()
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.goto(f"http://{host}/ui")
        for key, why in (("rh_wrong", "a key is needed"), (made["key"], "known")):
            expect(page.locator("#key-why")).to_contain_text(why)
            page.get_by_role("textbox", name="Key", exact=True).fill(key)
            page.get_by_role("button", name="Use it").click()
        ready(page)
        page.locator("#load").scroll_into_view_if_needed()
        expect(page.locator("#load-state")).to_contain_text("scope metrics")
        page.get_by_label("Admin key").fill(made["key"])
        page.get_by_role("button", name="Open").click()
        page.get_by_label("Name", exact=True).fill("shop")
        page.get_by_label("Share at most").fill("0.5")
        page.get_by_role("button", name="Store client").click()
        expect(page.locator("#admin-state")).to_have_text("shop is stored.")
        page.get_by_label("Client", exact=True).select_option("shop")
        page.get_by_role("button", name="Make key").click()
        text = page.locator("#key-made code").inner_text()
        headers = {"x-api-key": text}
        asked = {"model": "tiny", "budget": {"fraction": 0.6}}
        refused = httpx.post(f"http://{host}/v1/plan", json=asked, headers=headers)
        assert refused.status_code == 422
        page.get_by_role("button", name=f"Revoke the key {made['id']}").wait_for()
        page.get_by_role("button", name="Delete shop and its keys").click()
        page.get_by_role("button", name="Delete shop and its keys: really?").click()
        expect(page.locator("#admin-state")).to_have_text("shop is deleted.")
        assert httpx.get(f"http://{host}/v1/models", headers=headers).status_code == 401
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
