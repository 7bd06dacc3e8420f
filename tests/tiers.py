"""What every run tests, and what only JEM_ALL_ROWS=1 does: rows and cases of which a sibling says nearly the same.

Compiling is what tests take their time for. By default each law takes the rows of the zoo that between them hold every part
of the library, twelve of them in both dtypes and the rest in float64; two laws, the score's derivative and *converged means
converged*, take every kind of model, and leave out only what differs from another row in a covariance, a prior or what is held.
"""

import os

ALL = bool(os.environ.get("JEM_ALL_ROWS"))

OFTEN = {
    *("gaussian_spherical", "student_t", "mixture_full", "mixture_diagonal", "mixture_strong_prior", "tied", "frozen_mean"),
    *("mixture_gamma", "mixture_poisson_prior", "mixture_of_mixtures", "mixed_product", "one_of", "labelled", "hmm_missing"),
    *("hmm_categorical", "factor", "tied_factor", "mixture_negative_binomial", "lds_level", "mixture_laplace", "logjoint"),
    *("mixture_linear", "hmm_logistic", "mixture_censored"),
}
# Of the above: in float32 too a sibling does what they do.
IN_FLOAT64 = {
    *("gaussian_spherical", "mixture_diagonal", "mixture_strong_prior", "frozen_mean", "mixture_of_mixtures"),
    *("hmm_categorical", "factor", "mixture_linear", "hmm_logistic", "mixture_censored"),
}
SIBLINGS = {
    *("gaussian_no_prior", "mixture_spherical", "mixture_no_prior", "tied_diagonal_no_prior", "tied_spherical"),
    *("tied_scaled_volume", "mixture_eigen", "tied_eigen", "tied_volume", "tied_shape", "tied_volume_shape"),
    *("tied_volume_orientation", "tied_shape_orientation", "tied_axes_student_t"),
    *("frozen_weights", "tied_frozen_mean", "mixture_poisson_prior", "mixture_bernoulli_prior"),
    *("factor_spherical_no_prior", "frozen_loadings"),
    "mixture_noise",
    *("mixture_zero_inflated", "mixture_geometric", "mixture_binomial", "mixture_beta_binomial", "mixture_multinomial"),
    *("mixture_censored_gamma", "mixture_dirichlet_multinomial", "mixture_missing_t", "factor_missing"),
    *("mixture_exponential", "mixture_rayleigh", "mixture_inverse_gamma", "mixture_log_normal", "mixture_weibull"),
    *("tied_linear_t", "mixture_glm", "tied_glm", "glm_categorical", "glm_gamma"),
    *("mixture_inverse_gaussian", "mixture_beta", "mixture_dirichlet", "mixture_von_mises", "mixture_directions"),
}
EVERY_ROW = ("laws/test_converged.py", "laws/test_score.py")

LONG = {
    "test_implicit.py": ("test_zoo[mixture_poisson_prior]",),
    "test_regressions.py": (
        "test_laws[bernoulli]",
        "test_laws[binomial]",
        "test_laws[gamma]",
        "test_what_is_held[level]",
        "test_plain_steps_climb[gamma]",
    ),
    "oracles/test_sklearn.py": ("test_same_parameters[spherical]", "test_same_parameters[diag]"),
    "test_missing.py": ("test_derivatives[family0]",),
    "test_progress.py": ("is_the_same[stochastic]", "is_the_same[in turn]", "test_over_cores[1]", "what_there_is[raised]"),
    "laws/test_ascent.py": ("fit_is_those_steps[lds_level]",),
    "oracles/test_cases.py": ("[gmm_iris-9-VII]", "[gmm_iris-9-VVI]", "[gmm_iris-9-VVV]"),
    "oracles/test_estimator_peers.py": (
        *("test_same_mixture[iris-tied]", "test_same_mixture[iris-diag]", "test_same_mixture[iris-spherical]"),
        *("test_same_mixture[wine-full]", "test_same_mixture[digits-full]", "test_same_chain[gaussian]"),
        *("test_same_chain[poisson]", "test_same_climb_of_a_chain", "test_parameters_of_scikit_learn_are_taken"),
        "test_same_regression",
    ),
    "oracles/test_factor_cases.py": ("test_fa_ability[prior1]",),
    "oracles/test_logjoint_cases.py": ("test_poisson_hmm",),
    "oracles/test_regression_cases.py": ("test_salamanders[hurdle_negbin]", "test_salamanders[zi_poisson]"),
    "oracles/test_written_cases.py": (
        "test_biochemists[full]",
        *("test_biochemists[const]", "test_turtles", "test_salamanders[zi_poisson]", "test_patents", "test_two_parabolas"),
        *("test_gamma_regression[log-lot1]", "test_gamma_regression[log-lot2]", "test_rasch[rasch1]"),
        *("test_student_regression[8]", "test_survival[loglogistic]", "test_survival[weibull]", "test_beta_binomial[common]"),
        *("test_biochemists[count_only]", "test_salamanders[zi_negbin]", "test_salamanders[hurdle_poisson]"),
        *("test_salamanders[hurdle_negbin]", "test_student_regression[4]"),
        *("test_gamma_regression[inverse-lot1]", "test_survival[lognormal]", "test_student_regression[1.1]"),
    ),
    "oracles/test_censored_cases.py": ("test_hurdle_of_salamanders",),
    "test_censored.py": (
        *("in_float32[rayleigh]", "in_float32[binomial]", "in_float32[geometric]", "in_float32[inverse gaussian]"),
        *("and_expectations[rayleigh]", "and_expectations[log normal]", "direct_maximum[gamma]", "ends[exponential]"),
    ),
    "test_truncated.py": ("identity[exponential]", "identity[weibull]"),
    "test_bootstrap.py": ("test_number_of_components",),
    "test_check_node.py": ("test_sound_nodes[mixed_product]", "test_sound_nodes[student_t]"),
    "test_cli.py": (
        "test_every_model_fits[t]",
        *("test_every_model_fits[t-diag]", "test_every_model_fits[gmm-spherical]", "test_every_model_fits[gmm-diag]"),
        *("test_every_model_fits[poisson]", "test_interrupted_fit_ends_at_once[2]"),
    ),
    "test_compile.py": ("compiles_nothing[held cells]", "compiles_nothing[lds_level]"),
    "test_driven.py": ("test_earthquakes", "test_emissions_by_a_network"),
    "test_device_rules.py": ("test_derivatives_of_a_fit_have_products_of_full_precision[hmm]",),
    "test_factor.py": (
        *("test_compressed_fit_is_the_fit_from_rows[spherical]", "test_row_sharded_fit_is_the_fit"),
        *("test_tied_m_step_is_the_maximum[fields0]", "test_tied_m_step_is_the_maximum[fields2]"),
        *("test_heywood_case_is_flagged[float64]", "test_ordinary_fit_is_not_flagged[float32]"),
        *("test_float32_far_from_the_origin[Missing]", "test_mixture_of_factor_analysers[spherical]"),
        *("test_scale_of_the_data_does_not_matter[float64]", "test_log_prob_is_scipys[spherical"),
        *("test_fit_never_falls[diagonal-float64", "test_fit_never_falls[spherical-float32"),
    ),
    "test_families_discrete.py": (
        *("[float32-binomial]", "[float32-geometric]", "[float32-beta_binomial]", "[float32-multinomial]"),
        *("test_all_rows_alike[beta_binomial]", "test_all_rows_alike[binomial]", "test_all_rows_alike[geometric]"),
        *("test_all_rows_alike[multinomial]", "test_missing_cells[beta_binomial]", "test_litters"),
    ),
    "test_estimators.py": (
        *("test_latent_classes[sizes1]", "test_given_starts", "test_regression_of_one_component_is_least_squares"),
        *("test_a_component_that_collapses", "test_answers_have_weights", "test_the_page_runs"),
        *("test_any_node_has_an_estimator", "test_sequences_have_weights", "test_an_outlier_counts_less"),
    ),
    "test_failures.py": (
        *("test_scales_of_1e30[float64-100]", "test_scales_of_1e30[float32--100]", "test_steps_run_out[float64]"),
        *("test_as_many_components_as_rows[float64]", "test_a_nan_row_inside_jit[float64]"),
        *("test_scales_of_1e30[float64--100]", "again_and_again[full-1]", "again_and_again[spherical-1]"),
    ),
    "test_fit.py": ("test_inside_jvp", "test_inside_vmap_over_hyper_parameters", "test_parameter_counts[one of]"),
    "test_gallery.py": tuple(
        f"test_the_code_draws[{name}]"
        for name in (
            *("mixture", "student_t", "noise", "structures", "counts", "classes", "regressions", "experts", "missing"),
            *("chain", "inputs", "durations", "level", "factors", "own"),
        )
    ),
    "test_gem.py": (
        "test_optimisers_and_models[mixture_poisson-adam]",
        *("-schedule]", "-chain]", "test_equals_the_closed_form[mixture_no_prior]"),
        *("test_equals_the_closed_form[latent_class]", "and_vmap[mixture_laplace]", "and_vmap[mixture_poisson]"),
        *("[units-several steps]", "[statistics-adam]", "[units-sgd]", "safeguard_it_falls[statistics]", "[logjoint-lbfgs]"),
        "[units-refused at once]",
    ),
    "test_gem_more.py": tuple(f"different_scales[{way}]" for way in ("adam-limit", "adam-gain", "lbfgs-left", "lbfgs-gain")),
    "test_gradients.py": tuple(f"finite_gradient[{family}]" for family in ("LDS", "student", "diagonal", "factor")),
    "test_laws_of_chains.py": (
        *("of_every_law[negative binomial stays]", "takes_every_law[negative binomial stays]"),
        "takes_every_law[driven]",
        *("takes_every_law[cells]", "takes_every_law[kronecker]", "takes_every_law[categorical stays]"),
        *("of_every_law[cells]", "of_every_law[categorical stays]", "of_every_law[driven]"),
        *("by_enumeration[True-negative binomial]", "by_enumeration[True-poisson]", "never_leave_a_state[poisson]"),
        "never_leave_a_state[negative binomial]",
        *("all_outlast[float32-poisson-5]", "all_outlast[float32-negative binomial-5]", "all_outlast[float64-poisson-5]"),
        *("all_outlast[float64-negative binomial-5]", "all_outlast[float32-negative binomial-20]"),
        "all_outlast[float32-negative binomial-2]",
    ),
    "test_lds.py": (
        *("test_a_start_from_data_comes_near_the_truth", "test_brute_force[diagonal]", "test_a_mixture_of_models"),
        "test_a_first_state_without_noise_moves[fixed]",
    ),
    "test_mesh.py": ("test_no_deadlock_at_128_features", "test_restarts_over_devices[4]"),
    "test_one_sequence.py": ("put_in_order[stationary]",),
    "test_reachable.py": (
        "test_nothing_is_seen_beyond_the_ends[inf]",
        *("test_two_groups_without_a_common_symbol[float64]", "test_nothing_is_seen_beyond_the_ends[-inf]"),
        *("test_nothing_is_seen_beyond_the_ends[1e+30]", "test_impossible_sequences_have_no_posterior[float64]"),
    ),
    "test_remaining.py": (
        *("test_starts_beside_a_saddle[2-1.5-30]", "[SQUAREM-mixture_poisson]"),
        *("[SQUAREM-hmm_of_mixtures]", "test_sixty_random_problems[poisson]", "test_sixty_random_problems[factor]"),
    ),
    "test_restarts.py": ("test_batches_change_nothing[1]",),
    "test_written.py": ("test_starts_look_at_the_data[joint chain]",),
}


def is_long(item):
    """Whether a test waits for JEM_ALL_ROWS=1."""
    name = item.nodeid.removeprefix("tests/")
    file, _, test = name.partition("::")
    callspec = getattr(item, "callspec", None)
    row = callspec.params.get("model") if callspec else None
    if file.startswith("laws/") and isinstance(row, str):
        single = callspec.params.get("dtype") == "float32" and row in IN_FLOAT64
        if row in SIBLINGS if file in EVERY_ROW else row not in OFTEN or single:
            return True
    return any(test.endswith(ending) or (not ending.endswith("]") and ending in test) for ending in LONG.get(file, ()))
