"""Print the reading with the ACTION that the manifest sets in this handler's environment."""

from __future__ import annotations

import json
import os


def main() -> None:
    with open(os.environ["MIRROR_NEURON_INPUT_FILE"], encoding="utf-8") as file:
        body = json.load(file)
    print(json.dumps({"reading": body["reading"], "action": os.environ["ACTION"]}))


if __name__ == "__main__":
    main()
