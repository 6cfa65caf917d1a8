"""The one block at which Section 4 steers and reads: Section 3 chooses it, for all traits together."""

from __future__ import annotations

import json

from personalab import tiers
from personalab.records.artifacts import find_artifact

BLOCKS = "section_3_blocks.json"  # {"steer": block for all traits, trait: {"read": block, ...}, ...}


def steering_block() -> int:
    """Block index chosen by Section 3 for steering all traits; says whose choice it is.

    Your own run's choice comes first, then the committed reference. A tier that has neither gets its setting
    (`Tier.trait_block`), which nobody has chosen by a measurement on your model.

    Raises:
        ValueError: if the file holds no such block, as those of older versions of Section 3.
    """
    try:
        path, whose = find_artifact(BLOCKS, advice="")
    except FileNotFoundError:
        block = tiers.current_tier().trait_block
        print(f"block {block}: the tier's setting. Section 3 has not chosen one here: run it for a measured choice.")
        return block
    block = json.loads(path.read_text(encoding="utf-8")).get("steer")
    if type(block) is not int:
        raise ValueError(f'{path} ({whose}) has no whole number under "steer": run Section 3 again, or delete it.')
    print(f"block {block}: chosen in Section 3, {whose}")
    return block
