"""Writes the dashboards as JSON to where Grafana's provisioning looks for them."""

import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from observability.grafana.dashboards import application, infrastructure, load, logs, players, slo, traces

FOLDER = Path(__file__).parents[1] / "provisioning" / "dashboards" / "json"
DASHBOARDS = {
    module.__name__.rpartition(".")[2]: module.build for module in (application, infrastructure, load, logs, players, slo, traces)
}


def generate() -> Mapping[str, str]:
    """The text of each file, by its name."""
    return {
        f"{name}.json": json.dumps(build().build(), cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"
        for name, build in DASHBOARDS.items()
    }


def main() -> None:
    """Write what there is, and remove what is no longer."""
    FOLDER.mkdir(exist_ok=True)
    files = generate()
    for path in FOLDER.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
