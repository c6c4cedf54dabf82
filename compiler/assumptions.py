"""What some rewrites take for granted of a model's inputs: what every user means, and no file states.

A rewrite that rests on one names it (``m.assumes`` in a rule's ``unless``); where the file itself proves it, it does not.
The report lists those that were relied on; a user takes them away with ``--strict``, and the rewrites do not happen.
"""

from __future__ import annotations

KEEPS_A_KEY = "mask-keeps-a-key"
COVERS_KEYS = "mask-covers-keys"
INPUTS_AGREE = "inputs-agree"
FINITE = "finite-scores"
DISTINCT = "experts-differ"
UNCLIPPED = "finite-experts"
UNSELECTED = "finite-unselected"

ASSUMPTIONS = {
    KEEPS_A_KEY: (
        "every query may see at least one key; of one whose mask leaves none (a token of padding on the left, say) the "
        "result, and what follows from it at that token, is unspecified: exporters disagree (0, a mean over all keys, NaN)"
    ),
    DISTINCT: "no two experts are equally probable for a token; which of these is picked differs from runtime to runtime",
    UNCLIPPED: "what reaches experts that clip what they compute is finite; of an infinity the operator makes NaN",
    UNSELECTED: "where products with 0 and 1 choose between two values, what they drop is finite; of an infinity they make NaN",
    FINITE: "the scores of an attention, and what is added to them, are finite and small beside what drops a key",
    INPUTS_AGREE: (
        "token ids and masks that meet element by element, and batches of these and of what a product pairs them with, have the "
        "same sizes: none is stretched where it has 1, and none is empty"
    ),
    COVERS_KEYS: "an attention mask has one entry for each key, no more and no less, those in the cache included",
}
"""Name to what is assumed, a sentence a user can judge."""
