"""How certain a fit is: information, standard errors, intervals, bootstrap, influence, and a density for samplers."""
