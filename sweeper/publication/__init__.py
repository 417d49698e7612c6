"""What leaves this machine with a policy: what is known of it, the bundle, and the Hugging Face hub.

facts.py    what the sweep and a short measurement know of a policy
publish.py  an export with its model card, a bundle
unnamed.py  bundles that do not say which trial their policy is, and the sheet that goes with them
hub.py      upload an export to the hub, or show what would be uploaded
mlflow_model.py   log a policy as a model of MLflow
mlflow_policy.py  what MLflow runs to load and ask that model
"""
