"""Two sides and a metric become a labelled matrix, with how sure it is and what it is made of."""

from repsim._common.provenance import CautionWarning
from repsim.similarity.block_structure import Blocks, blocks
from repsim.similarity.comparison import compare
from repsim.similarity.disagreement import Disagreements, disagreements
from repsim.similarity.effective_dimension import dimension
from repsim.similarity.inference import Difference, bootstrap, difference, permutation_test
from repsim.similarity.many import compare_many
from repsim.similarity.matrix import SimilarityMatrix
from repsim.similarity.ridge_curve import LambdaCurve, lambda_curve
from repsim.similarity.sensitivity import TDSensitivity, td_sensitivity

__all__ = [
    "Blocks",
    "CautionWarning",
    "Difference",
    "Disagreements",
    "LambdaCurve",
    "SimilarityMatrix",
    "TDSensitivity",
    "blocks",
    "bootstrap",
    "compare",
    "compare_many",
    "difference",
    "dimension",
    "disagreements",
    "lambda_curve",
    "permutation_test",
    "td_sensitivity",
]
