"""The original notebook's autoencoder in Keras, on a predefined split: seconds an epoch and validation, as JSON.

    pip install -r scripts/peers/keras.txt     # in an environment of its own
    python scripts/peers/keras_run.py FOLDER --epochs 6

Dense 128-64-32-64-128 with ReLU, sigmoid output, mean squared error, Adam 1e-3; dense rows in and out.
"""

import time

import held_out
import keras


class Times(keras.callbacks.Callback):
    """The seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.start = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        """An epoch begins."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """An epoch ends."""
        self.seconds.append(time.perf_counter() - self.start)


def main() -> None:
    """Fit once and print one JSON line."""
    given = held_out.options(hidden=[128, 64, 32], batch=64, epochs=6)
    split = held_out.read(given.folder)
    items = split.train.shape[1]
    sizes = [*given.hidden, *given.hidden[-2::-1]]
    layers = [keras.layers.Dense(size, activation="relu") for size in sizes]
    model = keras.Sequential([keras.Input((items,)), *layers, keras.layers.Dense(items, activation="sigmoid")])
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
    rows, times = split.train.toarray(), Times()
    model.fit(rows, rows, batch_size=given.batch, epochs=given.epochs, verbose=0, callbacks=[times])
    held_out.report(
        split,
        times.seconds,
        batch_size=given.batch,
        dropout=0.0,
        parameters=model.count_params(),
        validation=held_out.ndcg_at_100(split, lambda rows: model.predict(rows.toarray(), verbose=0)),
    )


if __name__ == "__main__":
    main()
