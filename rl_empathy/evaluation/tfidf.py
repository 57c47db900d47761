"""Likeness in letters, without any trained weight."""

from collections.abc import Sequence


class TfidfSimilarity:
    """Cosine of TF-IDF vectors of character 2- to 4-grams: overlap in letters, no likeness of meaning.

    Document frequencies come from the texts it is made with; no parameter is trained.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        # Here, because scikit-learn takes seconds to import and most evaluations have a neural encoder.
        from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

        if not any(len(text.strip()) > 1 for text in texts):
            raise ValueError(f"TF-IDF needs text to count; got {len(texts)} texts of at most one character")
        self._vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True).fit(texts)

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """Cosine of left[i] and right[i], in 0..1; 0 when one of them has no known n-gram."""
        if len(left) != len(right):
            raise ValueError(f"similarities are of pairs, and there are {len(left)} and {len(right)} texts")
        if not left:
            return []
        product = self._vectorizer.transform(left).multiply(self._vectorizer.transform(right))
        return [min(1.0, float(cosine)) for cosine in product.sum(axis=1).ravel().tolist()[0]]
