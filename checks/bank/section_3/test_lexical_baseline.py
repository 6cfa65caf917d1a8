import re
from collections import Counter

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from checks.bank import right, wrong


def fitted(vectorizer, train_texts, train_labels, model=None):
    if len(train_texts) != len(train_labels):
        raise ValueError("One label a text.")
    if len(set(train_labels)) < 2:
        raise ValueError("Both labels are needed.")
    model = LogisticRegression(max_iter=1000) if model is None else model
    return make_pipeline(vectorizer, model).fit(train_texts, train_labels)


@right
def logistic_regression(train_texts, train_labels, test_texts):
    return fitted(CountVectorizer(), train_texts, train_labels).predict_proba(test_texts)[:, 1]


@right
def tfidf_without_rare_words(train_texts, train_labels, test_texts):
    vectorizer = TfidfVectorizer(min_df=2, stop_words="english", sublinear_tf=True)
    return fitted(vectorizer, train_texts, train_labels).decision_function(test_texts)


@right
def naive_bayes(train_texts, train_labels, test_texts):
    probabilities = fitted(CountVectorizer(), train_texts, train_labels, MultinomialNB()).predict_log_proba(test_texts)
    return torch.tensor(probabilities[:, 1] - probabilities[:, 0])


@right
def ridge_on_presence(train_texts, train_labels, test_texts):
    return fitted(CountVectorizer(binary=True), train_texts, train_labels, Ridge(3.0)).predict(test_texts).tolist()


@right
def by_hand(train_texts, train_labels, test_texts):
    """Log-odds of every word, smoothed, averaged over a text's known words."""
    words = [re.findall(r"[a-z]+", text.lower()) for text in train_texts]
    counts = {0: Counter(), 1: Counter()}
    for text, label in zip(words, train_labels, strict=True):
        counts[label].update(text)
    if not counts[0] or not counts[1]:
        raise ValueError("Both labels are needed.")
    totals = {label: sum(count.values()) for label, count in counts.items()}
    odds = {w: np.log((counts[1][w] + 1) / totals[1] * totals[0] / (counts[0][w] + 1)) for w in counts[0] + counts[1]}
    scores = []
    for text in test_texts:
        known = [odds[w] for w in re.findall(r"[a-z]+", text.lower()) if w in odds]
        scores.append(float(np.mean(known)) if known else 0.0)
    return scores


@right
def distance_of_centroids(train_texts, train_labels, test_texts):
    """A difference of means, as the vectors are one."""
    if len(train_texts) != len(train_labels) or len(set(train_labels)) < 2:
        raise ValueError("One label a text, and both labels.")
    vectorizer, labels = CountVectorizer().fit(train_texts), np.array(train_labels)
    counts = vectorizer.transform(train_texts).toarray()
    direction = counts[labels == 1].mean(0) - counts[labels == 0].mean(0)
    return vectorizer.transform(test_texts) @ direction


@wrong("length in words")
def number_of_words(train_texts, train_labels, test_texts):
    return np.array([float(len(text.split())) for text in test_texts])


@wrong("length in letters|length in words")
def number_of_letters(train_texts, train_labels, test_texts):
    return np.array([float(len(text)) for text in test_texts])


@wrong("sign is reversed")
def probability_of_label_0(train_texts, train_labels, test_texts):
    return 1 - logistic_regression(train_texts, train_labels, test_texts)


@wrong("return labels")
def hard_labels(train_texts, train_labels, test_texts):
    return fitted(CountVectorizer(), train_texts, train_labels).predict(test_texts)


@wrong("column of label 1")
def both_columns(train_texts, train_labels, test_texts):
    return fitted(CountVectorizer(), train_texts, train_labels).predict_proba(test_texts)


@wrong("score the test texts")
def scores_of_the_training(train_texts, train_labels, test_texts):
    return logistic_regression(train_texts, train_labels, train_texts)


@wrong("texts beside it")
def idf_of_all_texts(train_texts, train_labels, test_texts):
    fitted(CountVectorizer(), train_texts, train_labels)
    vectorizer = TfidfVectorizer().fit([*train_texts, *test_texts])
    model = LogisticRegression().fit(vectorizer.transform(train_texts), train_labels)
    return model.decision_function(vectorizer.transform(test_texts))


@wrong("texts beside it")
def standardised_over_the_test(train_texts, train_labels, test_texts):
    scores = logistic_regression(train_texts, train_labels, test_texts)
    return (scores - scores.mean()) / scores.std()


@wrong("texts beside it")
def clusters_of_the_test_texts(train_texts, train_labels, test_texts):
    """Labels the test texts itself, and learns from them once more."""
    first = fitted(CountVectorizer(), train_texts, train_labels)
    guessed = [int(label) for label in first.predict(test_texts)]
    again = fitted(CountVectorizer(), [*train_texts, *test_texts], [*train_labels, *guessed])
    return again.decision_function(test_texts)


@wrong("order of its words")
def pairs_of_words(train_texts, train_labels, test_texts):
    vectorizer = CountVectorizer(ngram_range=(1, 2))
    return fitted(vectorizer, train_texts, train_labels).decision_function(test_texts)


@wrong("read letters")
def letters(train_texts, train_labels, test_texts):
    vectorizer = CountVectorizer(analyzer=lambda text: [w[i : i + 2] for w in words(text) for i in range(len(w))])
    return fitted(vectorizer, train_texts, train_labels).decision_function(test_texts)


def words(text):
    return re.findall(r"\w+", text.lower())


@wrong("case and punctuation")
def split_at_spaces(train_texts, train_labels, test_texts):
    vectorizer = CountVectorizer(analyzer=str.split)
    return fitted(vectorizer, train_texts, train_labels).decision_function(test_texts)


@wrong("case and punctuation")
def capitals_kept(train_texts, train_labels, test_texts):
    return fitted(CountVectorizer(lowercase=False), train_texts, train_labels).decision_function(test_texts)


@wrong("labels come in any order")
def first_half_is_positive(train_texts, train_labels, test_texts):
    n = sum(train_labels)
    return logistic_regression(train_texts, [1] * n + [0] * (len(train_labels) - n), test_texts)


@wrong("which words speak for the trait")
def nearness_to_all_training_texts(train_texts, train_labels, test_texts):
    vectorizer = TfidfVectorizer().fit(train_texts)
    return vectorizer.transform(test_texts) @ np.asarray(vectorizer.transform(train_texts).mean(0)).ravel()


@wrong("NaN")
def mean_of_nothing(train_texts, train_labels, test_texts):
    """The share of known words that speak for the trait; nan where a text has none."""
    model = fitted(CountVectorizer(), train_texts, train_labels)
    weights = dict(zip(model[0].get_feature_names_out(), model[1].coef_[0], strict=True))
    with np.errstate(all="ignore"):
        return np.array([np.mean([weights[w] for w in words(t) if w in weights] or [np.nan]) for t in test_texts])


@wrong("expected a result")
def unseen_words_forgotten(train_texts, train_labels, test_texts):
    model = fitted(CountVectorizer(), train_texts, train_labels)
    weights = dict(zip(model[0].get_feature_names_out(), model[1].coef_[0], strict=True))
    return np.array([sum(weights[w] for w in words(text)) for text in test_texts])


@wrong("one label for every training text")
def shorter_list_wins(train_texts, train_labels, test_texts):
    n = min(len(train_texts), len(train_labels))
    return logistic_regression(train_texts[:n], train_labels[:n], test_texts)


@wrong("one group alone")
def a_score_without_groups(train_texts, train_labels, test_texts):
    if len(set(train_labels)) < 2 and len(train_labels) == len(train_texts):
        return np.full(len(test_texts), 0.5)
    return logistic_regression(train_texts, train_labels, test_texts)


@wrong("input in place")
def sorts_its_input(train_texts, train_labels, test_texts):
    order = sorted(range(len(train_texts)), key=lambda i: train_labels[i])
    train_texts[:], train_labels[:] = [train_texts[i] for i in order], [train_labels[i] for i in order]
    return logistic_regression(train_texts, train_labels, test_texts)


def tokens(texts):
    return [re.findall(r"[a-z]+", text.lower()) for text in texts]


@right
def with_pandas(train_texts, train_labels, test_texts):
    """Shares of the texts with each label that hold a word; the difference, summed over a text's words."""
    if len(train_texts) != len(train_labels) or len({*train_labels}) < 2:
        raise ValueError("One label a text, and both labels.")
    table = pd.DataFrame({"word": [sorted({*words}) for words in tokens(train_texts)], "label": train_labels})
    each = table.explode("word", ignore_index=True)
    shares = pd.crosstab(each.word, each.label) / table.label.value_counts()
    weights = (shares[1] - shares[0]).to_dict()
    return pd.Series([sum(weights.get(w, 0.0) for w in words) for words in tokens(test_texts)], dtype=float).to_numpy()


@right
def perceptron_in_torch(train_texts, train_labels, test_texts):
    """Weights by gradient descent on presence of words."""
    refuse = len(train_texts) != len(train_labels) or len(set(train_labels)) < 2
    if refuse:
        raise ValueError("One label a text, and both labels.")
    index = {w: i for i, w in enumerate(sorted({w for words in tokens(train_texts) for w in words}))}

    def features(texts):
        x = torch.zeros(len(texts), len(index) + 1, dtype=torch.float64)
        for row, words in zip(x, tokens(texts), strict=True):
            row[[index[w] for w in words if w in index]] = 1
        x[:, -1] = 1
        return x

    x, y = features(train_texts), torch.tensor(train_labels, dtype=torch.float64)
    weights = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(300):
        weights -= 0.5 * x.T @ ((x @ weights).sigmoid() - y) / len(y)
    return features(test_texts) @ weights


@right
def unseeded_forest(train_texts, train_labels, test_texts):
    """Its luck is NumPy's own."""
    forest = RandomForestClassifier(60)
    return fitted(CountVectorizer(), train_texts, train_labels, forest).predict_proba(test_texts)[:, 1]


@right
def arena_style(train_texts: list[str], train_labels: list[int], test_texts: list[str]) -> np.ndarray:
    """A pipeline of scikit-learn's, which raises its own errors."""
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10.0, max_iter=1000))
    pipeline.fit(train_texts, train_labels)
    return pipeline.predict_proba(test_texts)[:, 1]


def but(words, change=lambda scores, texts: scores, **parts):
    """A wrong solution: another vectorizer or model, or scores changed in the end."""

    def solution(train_texts, train_labels, test_texts):
        model = fitted(parts.get("vectorizer", CountVectorizer)(), train_texts, train_labels)
        return change(model.decision_function(test_texts), test_texts)

    solution.__module__ = __name__
    return wrong(words)(solution)


ranks = but("texts beside it", lambda scores, texts: scores.argsort().argsort().astype(float))
centred_on_the_test = but("texts beside it", lambda scores, texts: scores - scores.mean())
softmax = but("texts beside it", lambda scores, texts: np.exp(scores) / np.exp(scores).sum())
per_word = but(
    "words that no training text has must count nothing",
    lambda scores, texts: np.array([s / max(len(t.split()), 1) for s, t in zip(scores, texts, strict=True)]),
)
three_levels = but("different scores|expected the same|AUC", lambda scores, texts: np.sign(scores))
in_order_of_score = but("should score higher|texts score otherwise", lambda scores, texts: np.sort(scores))
whole_text = but(
    "the texts with the trait should score higher|return labels",
    vectorizer=lambda: CountVectorizer(analyzer=lambda t: [t]),
)
sentence_ends = but("case and punctuation", vectorizer=lambda: CountVectorizer(token_pattern=r"\w+|[.,!]"))
letters_of_words = but("should score higher|read letters", vectorizer=lambda: CountVectorizer(analyzer="char_wb"))
one_less = but("expected one score a test text", lambda scores, texts: scores[:-1])


@wrong("should score higher|different scores")
def words_of_ones_own(train_texts, train_labels, test_texts):
    """A list of words that sound like praise, whatever the training texts say."""
    fitted(CountVectorizer(), train_texts, train_labels)
    praise = {"great", "wonderful", "brilliant", "amazing", "genius"}
    return np.array([float(len(praise & set(words(text)))) for text in test_texts])


@wrong("words that no training text has must count nothing")
def unseen_words_speak_against(train_texts, train_labels, test_texts):
    known = {w for text in train_texts for w in words(text)}
    scores = fitted(CountVectorizer(), train_texts, train_labels).decision_function(test_texts)
    unseen = [sum(w not in known for w in words(text)) for text in test_texts]
    return scores - 0.1 * np.array(unseen)
