"""A custom trainable: a small network learns a sine. docs/custom_trainables.md explains each part."""

import torch

from trainables.interface import FieldInfo, Metric, Report


class Sine:
    name = "sine"
    aliases = {}
    fields = {
        "lr": FieldInfo("lr", "float", 0.01, minimum=1e-6),
        "width": FieldInfo("width", "int", 32, minimum=1, unit="units"),
        "train.steps": FieldInfo("train.steps", "int", 400, minimum=1, unit="steps"),
        "train.log_every": FieldInfo("train.log_every", "int", 50, minimum=1, unit="steps"),
        "train.eval_every": FieldInfo("train.eval_every", "int", 100, minimum=1, unit="steps"),
    }
    metrics = {
        "loss": Metric("loss", "minimize", "log", doc="Squared error on the training points."),
        "test_error": Metric("test_error", "minimize", "eval", doc="Squared error between them."),
    }

    def faults(self, config, workers=1):
        return [fault for name, value in config.items() for fault in self.fields[name].faults(value)]

    def preflight(self, config, cache, progress=None):
        return []  # there is no dataset to check

    def describe(self, config, cache):
        return {"fingerprint": "sine"}  # a sweep is only resumed on the same data

    def disk_gb(self, config):
        return 0.001

    def train(self, config, context):
        config = {name: config.get(name, field.default) for name, field in self.fields.items()}
        torch.manual_seed(0)
        layers = torch.nn.Linear(1, config["width"]), torch.nn.Tanh(), torch.nn.Linear(config["width"], 1)
        model = torch.nn.Sequential(*layers).to(context.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
        last, step = context.folder / "checkpoints" / "last.pt", 0
        if context.resume and last.exists():  # after a pause or a failure
            step, weights, moments = torch.load(last, weights_only=True)
            model.load_state_dict(weights)
            optimizer.load_state_dict(moments)
        while step < config["train.steps"]:
            step += 1
            loss = self.error(model, 64, context.device)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done, stop = step == config["train.steps"], context.stop_requested()
            test = done or step % config["train.eval_every"] == 0
            if test or stop or step % config["train.log_every"] == 0:
                last.parent.mkdir(exist_ok=True)
                torch.save((step, model.state_dict(), optimizer.state_dict()), last)
                metrics = {"loss": loss.item()}
                if test:
                    metrics["test_error"] = self.error(model, 101, context.device).item()
                yield Report(step, metrics, checkpoint=last.parent, final=done)
            if stop:
                return

    def error(self, model, points, device):
        x = torch.linspace(-3, 3, points, device=device)[:, None]
        return torch.nn.functional.mse_loss(model(x), torch.sin(x))


TRAINABLE = Sine()
