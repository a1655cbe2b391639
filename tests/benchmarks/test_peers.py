from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peers import Errand, keras_predict
from runtime.bundle import Bundle
from runtime.classifier import Classifier, ClassifierOptions


def test_keras_answers_as_the_bundle_does_calibrated(bundle: Path, finished_run: Path, drawn: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.manifest.decision.temperature != 1, "otherwise this proves nothing"
    paths = [str(path) for path in sorted(drawn.glob("*/*.bmp"))[::5]]
    errand = Errand(opened, opened.path(opened.variant("fp32")), paths, batch_size=4, run=finished_run)
    with Classifier(ClassifierOptions(bundle, backend="cpu", precision="fp32")) as classifier:
        expected = [prediction.p_all for prediction in classifier.classify(paths)]
    np.testing.assert_allclose(keras_predict(errand)(), np.array(expected, np.float32), atol=1e-4)
