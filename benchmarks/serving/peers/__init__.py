"""The peers' servers, each as its documentation's image example writes it. They are started by `sides`, never imported."""
