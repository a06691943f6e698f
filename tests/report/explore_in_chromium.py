"""The page in a headless Chromium: `python -m pytest -s tests/report/explore_in_chromium.py`.

Needs Debian's `chromium` package beside requirements-dev.txt; `python -m pytest` alone does not run
this file. Screenshots go to runs/explore/, frame rate and start-up are printed.
"""

import json
import re
import shutil

import pytest
from playwright.sync_api import sync_playwright

import diffusion
from diffusion import metrics
from diffusion.images import bitnet
from report import explore
from tests.report import test_explore_numbers as numbers

URL = explore.OUTPUT.resolve().as_uri()
SHOTS = explore.FOLDER.parent / "runs" / "explore"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HANGS = 300_000  # milliseconds, after which nothing more is expected


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    assert path, "install chromium first: apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=HANGS
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def models():
    return explore.load_denoisers()


@pytest.fixture(scope="module")
def js(browser, models):
    page = browser.new_page()
    yield numbers.evaluator(page.evaluate, models)
    page.close()


# The numbers are held to Python in this engine as in bare V8.
test_a_seed_gives_torchs_normal_numbers = numbers.test_a_seed_gives_torchs_normal_numbers
test_schedules = numbers.test_schedules
test_network = numbers.test_network
test_solvers_step_by_step = numbers.test_solvers_step_by_step
test_exact_score_and_density = numbers.test_exact_score_and_density
test_measures = numbers.test_measures
test_density_and_bound = numbers.test_density_and_bound
test_the_start_that_reaches_a_star = numbers.test_the_start_that_reaches_a_star


@pytest.fixture
def visit(browser):
    """Opens the page at a fragment; fails the test on any error the page reports."""
    errors, contexts = [], []

    def open_page(fragment="", size=DESKTOP, **options):
        context = browser.new_context(viewport=size, offline=True, **options)
        context.set_default_timeout(HANGS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(URL + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def finished(page):
    """Wait until the run is computed. What was changed last shows within two frames."""
    page.evaluate("new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))")
    page.wait_for_function("!/computed/.test(document.getElementById('status').textContent)"
                           " && document.getElementById('status').textContent")  # fmt: skip


def shoot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def measures(page):
    return [float(cell) for cell in page.locator("#measures td").all_inner_texts()]


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "heun", "dpm++"])
def test_shows_the_measures_of_the_librarys_samples(visit, solver):
    page = visit(f"#solver={solver}&steps=20&n=500&seed=4&frame=20")
    finished(page)
    model = diffusion.load(explore.WEIGHTS / "diffusion_unconditional.pt")
    points = diffusion.sample(model, 500, solver=solver, steps=20, seed=4)
    shown = measures(page)[::3]
    assert shown[0] == pytest.approx(metrics.tv10(points), abs=0.0021)  # one point moved
    assert shown[1] == pytest.approx(metrics.ks(points), abs=1e-4)
    assert shown[2] == pytest.approx(metrics.outside_share(points), abs=0.0021)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1280", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_of_points(visit, size, scheme):
    page = visit("#frame=30&n=400", size, color_scheme=scheme)
    finished(page)
    for name in ("model", "label", "solver", "spacing", "prior", "camera", "ground"):
        field = page.locator(f"#controls [name={name}]")
        for value in field.locator("option").evaluate_all("(all) => all.map((o) => o.value)"):
            if field.is_enabled():
                field.select_option(value)
                finished(page)
        assert f"{name}=" in page.evaluate("location.hash")
    page.locator("[name=solver]").select_option("ddpm")
    page.locator("[name=lam]").fill("0.5")
    for name, value in (("steps", "30"), ("n", "1500"), ("seed", "9"), ("point", "12")):
        page.locator(f"#controls [name={name}]").fill(value)
    page.locator("[name=starred]").check()
    finished(page)
    page.locator("#star").wait_for()
    page.locator("#star").focus()
    page.keyboard.press("ArrowUp")
    page.locator("#scrub").fill("12")
    page.locator("#exact").click(position={"x": 60, "y": 90})
    page.locator("#ours").click(position={"x": 40, "y": 120})
    page.locator("#probability td").first.wait_for()
    address = page.evaluate("location.hash")
    for part in ("lam=0.5", "steps=30", "n=1500", "seed=9", "star=-0.5,0.55", "frame=12"):
        assert part in address
    assert not page.locator("#problem").is_visible()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    shoot(page, f"points_{size['width']}_{scheme}")


def test_an_address_is_the_view_again(visit):
    fragment = ("#view=points&model=conditional&label=3&solver=ddpm&lam=0.5&steps=30&n=300&seed=8"
                "&frame=11&point=5&star=0.5,-1.5")  # fmt: skip
    seen = []
    for page in (visit(fragment), visit(fragment)):
        finished(page)
        assert page.evaluate("location.hash") == fragment
        assert page.locator("#time").inner_text().startswith("t = 0.63")
        seen.append([measures(page), page.locator("#star-text").inner_text()])
    assert seen[0] == seen[1]


def test_plays_and_stops_by_keyboard(visit):
    page = visit("#n=100&frame=5")
    finished(page)
    page.evaluate("""() => {
      const play = document.getElementById("play");
      window.shown = [];
      const keep = () => shown.push(play.textContent);
      new MutationObserver(keep).observe(play, { childList: true });
    }""")
    page.locator("#play").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("shown.length === 2")
    assert page.evaluate("shown") == ["Pause", "Play"]
    assert page.locator("#time").inner_text() == "t = 0.000"


def test_the_star_can_be_dragged(visit):
    page = visit("#n=100&frame=50&star=0,0")
    finished(page)
    plate, star = page.locator("#ours").bounding_box(), page.locator("#star").bounding_box()
    page.mouse.move(star["x"] + 22, star["y"] + 22)
    page.mouse.down()
    page.mouse.move(plate["x"] + 0.75 * plate["width"], plate["y"] + 0.5 * plate["height"], steps=5)
    page.mouse.up()
    text = page.locator("#star-text")
    text.filter(has_text=re.compile(r"reaches \(1\.3")).wait_for()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1280", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_of_words(visit, size, scheme):
    page = visit("#view=words", size, color_scheme=scheme)
    titles = {page.locator("#bars-title").inner_text()}
    for button in page.locator("#heads button").all():
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
    tokens = page.locator("#sentence button")
    for i in range(1, tokens.count()):
        tokens.nth(i).click()
        assert page.locator("#bars tbody tr").count() == i
        titles.add(page.locator("#bars-title").inner_text())
    assert len(titles) > tokens.count() / 2  # each names the token that is predicted
    tokens.nth(2).focus()
    assert "weight" in page.locator("#hover").inner_text()
    page.locator("#step").fill("0")
    assert page.locator("#decoded .right").count() < page.locator("#decoded span").count()
    scored = page.locator("#scored button")
    scored.nth(3).click()
    assert "Likeliest here" in page.locator("#scored-text").inner_text()
    page.locator("#tab-points").click()
    page.locator("#tab-words").click()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    tokens.nth(13).click()
    shoot(page, f"words_{size['width']}_{scheme}")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["1280", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_of_digits(visit, size, scheme):
    page = visit("#view=digits", size, color_scheme=scheme)
    text = page.locator("#visit-text")
    assert "0.0 % of the pixels above will still change" in text.inner_text()
    page.locator("#visit").fill("0")
    stages = bitnet.load(explore.WEIGHTS / "bitflip.pt").process.stages
    assert page.locator("#visit-shown").inner_text() == f"t = {stages}"
    share = float(re.search(r"([\d.]+) % of the pixels above", text.inner_text())[1])
    assert 45 < share < 55  # coins
    assert "visit=0" in page.evaluate("location.hash")
    ends = {}
    for visit_number in ("0", "40"):
        page.locator("#visit").fill(visit_number)
        ends[visit_number] = page.locator("#reverse").evaluate("(c) => c.toDataURL()")
    assert ends["0"] != ends["40"]
    page.locator("#visit").fill("34")
    page.locator("#digits-play").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('visit-shown').textContent === 't = 0'")
    page.wait_for_function("document.getElementById('digits-play').textContent === 'Play'")
    assert page.locator("#reverse").evaluate("(c) => c.toDataURL()") == ends["40"]
    names = page.locator("#families h3").all_inner_texts()
    assert names == ["real digits", "bit flips", "VAE (sheet)", "VAE (conv.)", "GAN"]
    page.locator("#tab-points").click()
    page.locator("#tab-digits").click()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    page.locator("#visit").fill("26")
    shoot(page, f"digits_{size['width']}_{scheme}")


@pytest.mark.parametrize(
    "fragment", ["#steps=1e99", "#n=NaN", "#solver=magic", "#%%%", "#star=9e9,0", "#view=elsewhere"]
)
def test_a_wrong_address_is_told_and_the_page_works(visit, fragment):
    page = visit(fragment)
    finished(page)
    assert page.locator("#problem").is_visible()
    assert len(measures(page)) == 9


@pytest.mark.parametrize(("name", "value"), [("steps", "100000"), ("n", ""), ("seed", "-3")])
def test_a_wrong_number_is_told_and_nothing_changes(visit, name, value):
    page = visit("#frame=50")
    finished(page)
    before = measures(page)
    page.locator(f"#controls [name={name}]").fill(value)
    assert "must be" in page.locator("#problem").inner_text()
    assert measures(page) == before
    page.locator(f"#controls [name={name}]").fill("20")
    assert not page.locator("#problem").is_visible()


def test_a_damaged_page_says_so(browser, tmp_path):
    path = tmp_path / "damaged.html"
    text = explore.OUTPUT.read_text(encoding="utf-8")
    path.write_text(text.replace('{"points":', '{"points"', 1), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert "The page stopped" in page.locator("#problem").inner_text()
    page.close()


def test_picture(visit):
    page = visit("#model=conditional&solver=ddpm&lam=1&frame=38&point=4&camera=near")
    finished(page)
    page.locator("#probability td").first.wait_for()
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "explore.png", clip={"x": 0, "y": 0, **DESKTOP})


def start_and_replay(page):
    """Milliseconds to the first paint, frames a second, and the page's own status."""
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    finished(page)
    status = page.locator("#status").inner_text()
    page.locator("#scrub").fill("0")
    page.locator("#play").click()
    count = """() => new Promise((resolve) => {
      const began = performance.now();
      let frames = 0;
      const tick = () => {
        frames++;
        const seconds = (performance.now() - began) / 1000;
        if (seconds > 3) resolve(frames / seconds); else requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
    })"""
    return paint, page.evaluate(count), status


def test_starts_and_replays_fast(visit):
    """The best of up to ten visits: what else the machine does is not the page's."""
    paint, rate = float("inf"), 0.0
    for _ in range(10):
        page = visit()
        paint_here, rate_here, status = start_and_replay(page)
        page.close()
        paint, rate = min(paint, paint_here), max(rate, rate_here)
        if paint < 1000 and rate >= 30:
            break
    print(json.dumps({"first_paint_ms": paint, "frames_per_second": rate, "status": status}))
    assert paint < 1000
    assert rate >= 30
