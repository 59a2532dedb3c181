"""Methods of explanation, found by name: ``rblite list explanations``.

In come inputs and a target; out comes a number for each value of the inputs. A user's repo may have an
``explanations`` folder of its own, with a table such as this one.
"""

CATALOGUE = {
    "integrated_gradients": "integrated_gradients:IntegratedGradients",
    "grad_cam": "grad_cam:GradCAM",
    "lime": "lime:LIME",
    "kernel_shap": "kernel_shap:KernelSHAP",
}
