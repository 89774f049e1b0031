"""The protocols: each plans the runs of a table. PROTOCOLS has them in the order of a report."""

from .base import Protocol
from .base2new import BASE2NEW
from .few_shot import FEW_SHOT
from .several_labels import SEVERAL_BASE2NEW, SEVERAL_LABELS
from .transfer import CROSS_DATASET, DOMAIN_GENERALIZATION

# fmt: off
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        FEW_SHOT, BASE2NEW, CROSS_DATASET, DOMAIN_GENERALIZATION, SEVERAL_LABELS, SEVERAL_BASE2NEW,
    )
}
# fmt: on
