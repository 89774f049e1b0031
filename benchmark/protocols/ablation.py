"""The ablation protocol: ALIGN base-to-new with other values of beta, M and N."""

from itertools import cycle, islice, product
from pathlib import Path

from recipe.configs import read_keys
from trainers.prompting.errors import UserError

from ..cli import each, number_pairs, one_of, weight
from .base import METHOD, SHOTS, Part, Plot, Protocol, base_and_new
from .base2new import BASE2NEW

FORMS = {"convex": "beta", "additive": "additive-beta"}  # BETA_FORM -> name of its variants

BETAS = (0.0, 0.2, 0.5, 0.7, 1.0)

VARIANT = f"{{dataset}}/{METHOD}/{{variant}}/seed{{seed}}"


class Ablation(Protocol):
    """Train and test ALIGN base-to-new with each beta and form of the cost, and each (M, N).

    One setting is varied at a time.
    """

    name = "ablation"
    title = "Ablation"
    summary = "ALIGN base-to-new with each beta, or M and N"
    parts = {
        "base": Part(f"ablation/train_base/{VARIANT}", "base", "base"),
        "new": Part(f"ablation/test_new/{VARIANT}", "new", "new", True),
    }
    columns = BASE2NEW.columns
    rules = BASE2NEW.rules
    options = SHOTS | {
        "--betas": {
            "type": each(weight),
            "help": "values of beta, the weight of the token level, from 0 to 1, in one argument "
            f"(default: '{' '.join(f'{beta:g}' for beta in BETAS)}'; with --mn and without --forms "
            "none)",
        },
        "--forms": {
            "type": each(one_of(FORMS)),
            "help": "forms of the cost for which the values of beta are tried: convex, additive or "
            "both, in one argument (default: 'convex')",
        },
        "--mn": {
            "type": number_pairs,
            "default": "",
            "metavar": "M,N",
            "help": "numbers of visual and textual prompts, as in '1,1 2,2 4,4' (default: none)",
        },
    }
    new_classes = True
    by_variant = True
    table_title = "Ablation of {tried} on {dataset}"
    variant_notes = {
        "BETA": "BETA weighs the token level: cost (1 - BETA) (1 - cos) + BETA d.",
        "BETA_FORM and BETA": "BETA weighs the token level: cost (1 - cos) + BETA d.",
    }
    plot = Plot(
        name="ablation_beta",
        x="BETA",
        y="h",
        x_label="beta, weight of the token level in the convex form",
        y_label="Harmonic mean (%)",
        sentence="H against beta, the weight of the token level in the convex form",
    )

    def plan(self, output, datasets, seeds, configs, shots, betas, forms, mn):
        """Return the runs: each value of beta and pair M, N, for each seed and data set."""
        if betas is None:
            betas = () if mn and not forms else BETAS
        if not betas and not mn:
            raise UserError("there is nothing to vary: give --betas or --mn; both are empty")
        runs = []
        for seed, dataset in product(seeds, datasets):
            method = self.method(configs, "ALIGN", dataset, seed, shots)
            variants = {
                f"{FORMS[form]}{beta:g}": beta_opts(beta, form)
                for form, beta in product(forms or ["convex"], betas)
            }
            variants |= {f"M{M}_N{N}": prompt_opts(M, N, method["config_file"]) for M, N in mn}
            for variant, opts in variants.items():
                names = method | {"dataset": dataset, "variant": variant, "opts": opts}
                runs += base_and_new(self, output, **names)
        return runs


def beta_opts(beta: float, form: str) -> tuple[str, ...]:
    """Return ALIGN's KEY VALUE pairs for a weight of the token level in a form of the cost."""
    return ("TRAINER.ALIGN.BETA_FORM", form, "TRAINER.ALIGN.BETA", str(beta))


def prompt_opts(M: int, N: int, config_file: Path) -> tuple[str, ...]:
    """Return ALIGN's KEY VALUE pairs for M visual and N textual prompts.

    If the config file lists a template for each prompt, the list is repeated or cut to N.
    """
    opts: tuple[str, ...] = ("TRAINER.ALIGN.M", str(M), "TRAINER.ALIGN.N", str(N))
    templates = read_keys(config_file).get("TRAINER.ALIGN.CTX_INIT")
    if isinstance(templates, list):
        opts += ("TRAINER.ALIGN.CTX_INIT", str(list(islice(cycle(templates), N))))
    return opts


ABLATION = Ablation()
