"""The picture in docs/deploy.md is what the templates say."""

from deploy.diagram import BLOCK, PAGE, mermaid
from tests.deploy.conftest import Templates


def test_picture_is_current(staging: Templates) -> None:
    [drawn] = BLOCK.findall(PAGE.read_text())
    assert drawn == mermaid(staging["network"]), "draw it anew: python -m deploy diagram"


def test_picture_has_what_people_look_for(staging: Templates) -> None:
    drawn = mermaid(staging["network"])
    for line in (
        "internet -- 80 --> balancer",
        "cloudfront -- 443 --> balancer",
        "balancer -- 8080 --> app",
        "app -- 5432 --> database",
    ):
        assert f"    {line}\n" in drawn
    assert "endpoints" not in drawn
