"""What counts as a call of the gate or the guard, and for each: what stands in its place when it is taken out, and which
test must then fail.

A new call site is two lines in `MUTANTS`: its name (test_gate_mutations.py prints the missing ones), the expression that
lets everything pass in its place (it sees the names of the function that it stands in), and the id of a quick test that
refuses what the call refuses. The test must fail by an assertion: an error in the expression itself does not count.
"""

import re

import mutation

GATES = re.compile(
    r"(.*\.)?("
    r"boundary\.(release|aggregate)|_?register\.held|self\.held|decide_\w+|\w*_rule|"  # the gate
    r"guard|_check_rights|_check_header|_check_turn|_check_signature|_check_refusal|fitting_modes|_check_known|"  # the guard
    r"check_peer|read_dial|check_ids|_check_open|_admit_once|_check_new|_check_signed|"  # the door
    r"check_proposal|judge_by_policy|open_contract|keep_head|"  # what is agreed
    r"check_consent|check_revocation|check_public_key|received_key|verify\w*|_verify\w*|"
    r"check_registered|check_gated|check_signatures|head_of|_check_clock|check_witnessed|_outputs\.admit|"  # what is received
    r"check_institutions?|"  # who may take part
    r"charge|check_minimum|_check_quota|_check_firms|_check_own_firms)"  # how much
)
NOT_GATES = re.compile(r"(.*\.)?(verify_run|verify_page|bench\w*)")
NOT_GATED = re.compile(
    r"parties/auditor\w*\.py|"  # a judge, not a gate: nothing leaves by it; test_auditor.py takes each check out
    r"parties/consent_desk\.py|"  # tells an operator what the gate would say; nothing leaves by it
    r"parties/key_expiry\.py|"  # tells an operator what ends soon; it opens a contract for its last day and nothing else
    r"(federation/plan|parties/cli|parties/report)\w*\.py"  # prices, commands and pages
)


def is_gate(callee: str) -> bool:
    """Return whether a call of this (dotted) name is one of the gate or the guard."""
    return GATES.fullmatch(callee) is not None and NOT_GATES.fullmatch(callee) is None


def gated_files() -> list[str]:
    """Return the files in which every gate call needs a mutant."""
    files = [
        f"{room}/{path.name}" for room in ("federation", "parties") for path in (mutation.ROOT / room).glob("*.py")
    ]
    return sorted(path for path in files if NOT_GATED.fullmatch(path) is None)


_CALLS, _SESSION = "tests/test_gate_calls.py::", "tests/test_session.py::"
_MATCHING, _AGREEMENT = "tests/test_matching.py::", "tests/test_agreement.py::"
_DECISION, _BOUNDARY = "tests/test_decision.py::", "tests/test_boundary.py::"
_FORGING = "tests/attacks/test_17_consent_forging.py::test_a_forged_consent_is_not_imported_and_opens_nothing"
_UNPROVED = "tests/attacks/test_17_borrowed_signatures.py::test_a_snapshot_that_nobody_published_proves_nothing"
_CHANGED = _SESSION + "test_an_envelope_changed_on_its_way_is_refused_traced_and_answered"
_LIED = _SESSION + "test_a_peer_that_signs_an_envelope_out_of_place_is_refused"
_UNCOMMITTED = (
    "tests/attacks/test_02_enumeration.py::"
    "test_queries_that_were_not_committed_to_get_no_tags_and_without_the_check_they_do"
)
_NO_RIGHT = _DECISION + "test_a_request_without_a_right_is_refused_by_its_rule"
_GATE_ASKED = _CALLS + "test_a_run_has_its_rows_and_statistics_from_the_gate_alone"
_PARTIES = "tests/test_gate_calls_of_parties.py::"
_ENDED = "tests/test_query_end.py::test_a_question_is_answered_no_further_than_to_the_end"
_UNTIED = "tests/test_query_roles.py::test_a_value_crosses_behind_its_own_release_alone"
_SCORES = "tests/test_scoring.py::"
_HELD = _PARTIES + "test_the_registry_is_held_while_it_is_decided_on_or_grows"
_NO_IDS = _CALLS + "test_ids_that_are_none_open_no_conversation_in_memory_or_by_grpc"
_JUDGED = _PARTIES + "test_a_query_is_judged_field_by_field_by_class_and_by_consent"
_STANDING = _PARTIES + "test_a_node_that_starts_again_takes_up_no_agreement_whose_signatures_do_not_hold"
_OTHER_KEY = _PARTIES + "test_a_consent_and_a_revocation_that_another_key_signed_are_refused_by_their_checks"
_COSIGNED = _PARTIES + "test_a_head_or_cosignature_of_another_key_is_neither_kept_nor_answered"
_SKEWED = _PARTIES + "test_while_the_clock_is_wrong_nothing_leaves"
_OVERDUE = _PARTIES + "test_while_the_witnesses_are_overdue_neither_a_release_nor_a_value_leaves"
_UNHELD = "__import__('contextlib').nullcontext(%s)"
_TREES = "tests/test_trees_parts.py::"
_REGISTER = "tests/test_institutions.py::"
_UNSIGNED_CONTRACT = (
    "__import__('lianxin.federation.contract', fromlist=['parse_contract']).parse_contract("
    "__import__('lianxin.crypto.canonical', fromlist=['decode']).decode_fragment(row.contract)['record'])"
)
_GOES_ON = _CALLS + "test_a_platform_goes_on_under_no_contract_that_lacks_signatures"
_STATISTIC = _BOUNDARY + "test_a_statistic_over_too_few_or_of_a_refused_field_stays"
_NODES = "tests/test_gate_calls_of_nodes.py::"
_INTRODUCED = "Introduced(**{name: %s['record'][name] for name in Introduced._fields})"
_UNKNOWN_HEAD = _NODES + "test_a_head_is_taken_under_a_key_that_the_party_had_and_under_no_other"
_FOREIGN_BACKUP = _NODES + "test_a_manifest_is_one_of_the_nodes_own_keys_or_nothing_is_restored"
_RESUMED = _NODES + "test_a_run_is_resumed_under_the_contract_that_its_parties_signed_and_no_other"

MUTANTS: dict[str, tuple[str, str]] = {
    # what is received: keys, commitments, sizes
    "federation/binning.py bank_keys_role received_key": (
        "paillier.PublicKey(int.from_bytes(answer.modulus, 'big'), platform, MASK_PURPOSE, work.contract.run)",
        _CALLS + "test_a_bank_keeps_no_platform_key_whose_modulus_is_bad"),
    "federation/binning.py platform_keys_role received_key": (
        "paillier.PublicKey(int.from_bytes(offer.modulus, 'big'), work.bank, LABEL_PURPOSE, work.contract.run)",
        _CALLS + "test_a_platform_keeps_no_training_key_whose_modulus_is_bad"),
    "federation/evaluators.py PaillierEvaluator.__init__ received_key": (
        "paillier.PublicKey(int.from_bytes(opening.modulus, 'big'), side.bank, PURPOSE, side.contract.run)",
        _CALLS + "test_an_evaluator_takes_no_matching_key_whose_modulus_is_bad"),
    "federation/key_exchange.py received_key modulus_proof.check_public_key": (
        "None", _CALLS + "test_a_received_key_is_admitted_by_form_and_proof"),
    "federation/secure_sum_records.py read_as verify_signed": (
        "signed['record']",
        "tests/test_secure_sum_cheats.py::test_a_platform_that_tampers_with_keys_gets_no_box"
        "[the platform's own key in a bank's place]"),
    "federation/evaluators.py Evaluator.verify_queries verify_root": ("None", _UNCOMMITTED),
    "federation/matching.py platform_role _verify_committed": ("None", _UNCOMMITTED),
    "federation/matching.py _verify_committed evaluator.verify_queries": ("None", _UNCOMMITTED),
    "federation/matching.py bank_role _check_quota": (
        "None", _MATCHING + "test_a_bank_with_more_firms_than_the_contract_asks_nothing_and_says_so"),
    "federation/matching.py bank_role _check_firms": (
        "None",
        _MATCHING + "test_a_platform_that_declares_more_firms_than_the_contract_is_refused_before_a_query_is_made"),
    "federation/matching.py bank_role check_minimum": (
        "None", _CALLS + "test_each_side_stops_below_the_minimum_of_shared_firms_by_itself"),
    "federation/matching.py platform_role check_minimum": (
        "None", _CALLS + "test_each_side_stops_below_the_minimum_of_shared_firms_by_itself"),
    "federation/matching.py platform_role _check_own_firms": (
        "None", _CALLS + "test_a_platform_with_more_firms_than_the_contract_answers_nothing"),
    "federation/matching.py platform_role side.charge": (
        "None", _MATCHING + "test_the_quota_is_charged_with_the_padded_size_before_the_platform_says_anything"),
    # the door
    "federation/channel.py MemoryNetwork.open check_ids": ("None", _NO_IDS),
    "federation/services_dialling.py GrpcLink.open check_ids": ("None", _NO_IDS),
    "federation/services_health.py HealthDoor._check check_peer": (
        "(next(iter(self.parties.values())), '')",
        _NODES + "test_who_shows_no_certificate_is_not_told_whether_the_node_serves"),
    "federation/services_health.py HealthDoor._check self.charge": (
        "None", _NODES + "test_a_peer_that_asks_after_the_health_too_often_is_told_nothing"),
    "federation/services_road.py bytes_of charge": (
        "None", _NODES + "test_what_costs_more_than_a_peer_may_is_not_said_and_ends_the_conversation"),
    "federation/services.py _Door._admit check_peer": (
        "(next(iter(self.parties.values())), next(iter(self.parties)))",
        "tests/test_grpc_channel.py::test_a_client_of_tls_1_2_is_refused_before_the_handler"),
    "federation/services.py _Door._admit read_dial": (
        "__import__('lianxin.federation.admission', fromlist=['Dial']).Dial(peer.party, 'matching/x', 'run-0001')",
        "tests/test_grpc_channel.py::test_ids_that_are_malformed_or_another_partys_are_refused_and_reported"
        "[a path in the run]"),
    "parties/platform_run.py PlatformRun.serve self._admit_once": (
        "('match', 0, 0)", _CALLS + "test_a_platforms_run_serves_no_conversation_that_it_did_not_admit"),
    # the guard, at both ends of every conversation
    "federation/session.py Session.send wire.guard": (
        "[]", _SESSION + "test_a_refused_send_uses_no_number_so_the_conversation_goes_on"),
    "federation/session.py Session.send self._check_rights": (
        "None", _SESSION + "test_values_do_not_leave_without_a_right_for_this_recipient_and_purpose[another recipient]"),
    "federation/session.py Session.send self._verify_releases": ("None", _UNTIED + "[another release]"),
    "federation/session.py Session._verify_releases fitting_modes": (
        "frozenset({right.mode})", _UNTIED + "[a release in a lesser mode]"),
    "federation/wire.py _parse _check_known": (
        "None",
        "tests/test_wire.py::test_what_an_envelope_or_its_message_holds_beside_its_fields_is_refused_before_it_is_looked_at"),
    "federation/session.py Session._check_rights fitting_modes": (
        "modes", "tests/test_crossings.py::test_a_form_crosses_behind_a_release_in_a_fitting_mode_and_behind_no_other"
        "[AGGREGATE-COMPUTE_ONLY]"),
    "federation/session.py Session.accept wire.guard": (
        "[]", _SESSION + "test_a_message_that_the_step_does_not_list_is_refused_by_the_guard_on_receipt"),
    "federation/session.py Session.accept self._check_header": ("None", _LIED + "[another contract]"),
    "federation/session.py Session.accept self._check_refusal": (
        "None", _SESSION + "test_a_refusal_that_another_key_signed_is_refused_itself"),
    "federation/session.py Session._check_header self._check_signature": ("None", _CHANGED + "[signature]"),
    "federation/session.py Session._check_header self._check_turn": ("None", _LIED + "[another round]"),
    "federation/session.py Session._check_signature wire.verify_envelope": ("None", _CHANGED + "[signature]"),
    "federation/session.py open_refusal verify_by": (
        "envelope['record']", _SESSION + "test_a_refusal_that_another_key_signed_is_refused_itself"),
    "federation/wire.py verify_envelope verify_signature": ("None", _CHANGED + "[signature]"),
    # what is agreed
    "parties/agreement.py join_signatures open_contract": (
        "None",
        _CALLS + "test_a_platform_notices_that_it_would_send_a_contract_with_a_bad_signature_of_its_own"),
    "parties/agreement.py _approval_of verify_by": (
        "approval['record']", _AGREEMENT + "test_an_approval_that_is_not_this_banks_of_these_terms_is_refused"),
    "parties/agreement.py open_contract verify_signed": (
        "None",
        _AGREEMENT + "test_a_contract_with_a_signature_missing_doubled_or_moved_to_other_terms_does_not_open"),
    "parties/bank.py BankNode._answer self._check_new": (
        "None", _CALLS + "test_a_bank_looks_whether_a_run_id_is_new_before_it_reads_the_proposal"),
    "parties/bank.py BankNode._judge check_proposal": (
        "Verdict('', '')", _CALLS + "test_a_banks_own_checks_and_its_policy_both_have_a_veto[check_proposal]"),
    "parties/bank.py BankNode._judge judge_by_policy": (
        "Verdict('', '')", _CALLS + "test_a_banks_own_checks_and_its_policy_both_have_a_veto[judge_by_policy]"),
    "parties/bank.py BankNode._take_part self._check_signed": (
        "None", _CALLS + "test_a_bank_takes_no_part_under_a_contract_that_lacks_signatures"),
    "parties/bank.py BankNode._check_signed open_contract": (
        "contract", _CALLS + "test_a_bank_takes_no_part_under_a_contract_that_lacks_signatures"),
    # heads of other ledgers
    "parties/bank.py BankNode._confirm self.node.keep_head": (
        "None", _CALLS + "test_a_bank_closes_no_run_on_a_head_that_it_could_not_keep"),
    "parties/runs_resumed.py tell_end node.keep_head": (
        "None", _CALLS + "test_a_platform_says_which_bank_did_not_confirm_the_end_by_a_head_that_holds"),
    "parties/node.py Node.keep_head witness.keep_head": (
        "None", _CALLS + "test_a_node_keeps_no_head_that_another_key_signed"),
    # the gate
    "parties/platform_network.py PlatformNetwork._hand_on self.node.boundary.aggregate": (
        "None", "tests/test_networks_agreement.py::test_the_platform_hands_nothing_on_that_its_gate_refuses"),
    "parties/bank_network.py BankNetwork._spend self._budget().charge": (
        "planned", "tests/test_networks_agreement.py::test_a_bank_whose_budget_is_used_up_begins_no_run"),
    "parties/bank_side.py BankSide._release self.node.boundary.release": ("None", _GATE_ASKED + "[a bank's rows]"),
    "parties/bank_side.py BankSide._aggregate self.node.boundary.aggregate": (
        "None", _GATE_ASKED + "[a bank's statistic]"),
    "parties/platform_run.py PlatformRun._release self.node.boundary.release": (
        "None", _GATE_ASKED + "[the platform's rows]"),
    "parties/platform_run.py PlatformRun._aggregate self.node.boundary.aggregate": (
        "None", _GATE_ASKED + "[the platform's statistic]"),
    "parties/boundary.py Boundary.release self._register.held": (
        _UNHELD % "self._register.registry()", _HELD + "[release]"),
    "parties/boundary.py Boundary.aggregate self._register.held": (
        _UNHELD % "self._register.registry()", _HELD + "[aggregate]"),
    "parties/boundary.py Boundary.aggregate decision.decide_release": (
        "ReleaseDecision(request.fields, (), ())", _STATISTIC + "[R20-500-None-None-fields4]"),
    "parties/boundary.py Boundary.aggregate self._foreign_rule": (
        "''", _BOUNDARY + "test_a_statistic_of_another_partys_fields_stays"),
    "parties/boundary.py Boundary._decide_fields decision.decide_release": (
        "ReleaseDecision(request.fields, (), ())",
        _BOUNDARY + "test_only_rows_of_firms_with_a_live_consent_and_columns_with_a_right_cross"),
    "parties/boundary.py Boundary._decide_firms judge.decide_firm": (
        "decision.Decision(True, 'CONSENT')",
        _BOUNDARY + "test_only_rows_of_firms_with_a_live_consent_and_columns_with_a_right_cross"),
    "parties/boundary.py Boundary.aggregate size_rule": ("''", _STATISTIC + "[OUT-ROWS-49-None-None-fields0]"),
    "parties/boundary.py Boundary._decide_fields self._foreign_rule": (
        "''", _BOUNDARY + "test_when_nothing_may_cross_the_rule_is_told_and_a_refusal_leaf_written[R09-fields1-changes1]"),
    "parties/boundary.py Boundary._decide_fields self._mode_rule": (
        "''", _PARTIES + "test_rows_do_not_leave_in_the_mode_of_statistics_whatever_is_said_of_their_firms"),
    "parties/boundary_proofs.py verify_firm merkle.verify_inclusion": (
        "None", _PARTIES + "test_a_firms_proof_under_another_root_is_refused"),
    "parties/field_selection.py _coverage_rules _coverage_rule": (
        "''", _PARTIES + "test_a_field_that_no_consent_covers_is_left_out_by_its_rule"),
    "parties/field_selection.py _coverage_rule decision.decide_firm": (
        "decision.Decision(True, 'CONSENT')",
        _PARTIES + "test_a_field_that_no_consent_covers_is_left_out_by_its_rule"),
    "parties/boundary.py Boundary.release self._check_clock": ("None", _SKEWED + "[release]"),
    "parties/boundary.py Boundary.aggregate self._check_clock": ("None", _SKEWED + "[aggregate]"),
    "parties/boundary.py Boundary.aggregate persons_rule": (
        "''", "tests/test_outputs.py::test_statistics_for_feedback_are_of_enterprises_and_say_of_which[firms0]"),
    "parties/boundary.py Boundary.aggregate self._outputs.admit": (
        "''", "tests/test_outputs.py::test_what_is_refused_spends_nothing_and_is_a_refusal_leaf"),
    "parties/ledger.py Ledger.append_release self.check_witnessed": ("None", _OVERDUE),
    "parties/trace.py LedgerTrace.crossed self._ledger.check_witnessed": ("None", _OVERDUE),
    # queries
    "parties/query_bank.py BankQueries._release self.node.boundary.release": (
        "__import__('types').SimpleNamespace(provenance=None, firms=())",
        _PARTIES + "test_a_bank_names_firms_and_a_platform_answers_by_the_gate_alone"),
    "parties/query_platform.py QueryDesk._release self.node.boundary.release": (
        "None", _PARTIES + "test_a_bank_names_firms_and_a_platform_answers_by_the_gate_alone"),
    # trees
    "federation/boosting_platform.py platform_open_role received_key": (
        "paillier.PublicKey(int.from_bytes(offer.modulus, 'big'), work.bank, LABEL_PURPOSE, work.contract.run)",
        _TREES + "test_a_platform_admits_no_key_for_trees_whose_modulus_is_bad"),
    "federation/boosting_platform.py _PlatformAnswers._take self._trees.charge": (
        "None", _TREES + "test_no_side_is_told_before_its_cut_is_charged"),
    "parties/platform_trees.py PlatformTrees._charge self.quota.charge": (
        "0", _TREES + "test_a_run_whose_cuts_the_quota_does_not_cover_is_refused_and_no_count_is_written"),
    "parties/query_platform.py QueryDesk._answers self._quota.charge": (
        "None", _PARTIES + "test_a_query_is_charged_before_it_is_logged_or_answered"),
    "parties/query_platform.py QueryDesk._answers self._check_open": ("None", _ENDED + "[0]"),
    "parties/query_platform.py QueryDesk._each self._check_open": ("None", _ENDED + "[1]"),
    "parties/query_judgement.py judge node.register.held": (_UNHELD % "node.register.registry()", _HELD + "[judge]"),
    "parties/query_judgement.py judge decision.decide_release": (
        "decision.ReleaseDecision(request.fields, (), request.fields)", _JUDGED),
    "parties/query_judgement.py judge decision.decide_firm": ("decision.Decision(True, 'CONSENT')", _JUDGED),
    # scores
    "parties/score_bank.py BankScores._name self.node.boundary.release": (
        "__import__('types').SimpleNamespace(provenance=None, firms=())",
        _SCORES + "test_firms_are_named_and_scored_by_the_gate_alone"),
    "parties/score_platform.py ScoreDesk._release_rows self.node.boundary.release": (
        "None", _SCORES + "test_firms_are_named_and_scored_by_the_gate_alone"),
    "parties/score_platform.py ScoreDesk._answer_request self._scores.charge": (
        "None", _SCORES + "test_who_has_asked_too_often_is_refused_before_anything_is_looked_at"),
    "parties/score_platform.py ScoreDesk._answer_request self._check_open": (
        "None", _SCORES + "test_a_bank_that_asks_after_the_end_is_refused"),
    "parties/score_platform.py check_fields decision.decide_release": (
        "decision.ReleaseDecision(request.fields, (), request.fields)",
        _SCORES + "test_an_agreement_whose_fields_may_be_in_no_score_is_refused_at_the_start"),
    "parties/score_parts.py contract_of open_contract": (
        _UNSIGNED_CONTRACT,
        _SCORES + "test_a_model_whose_contract_is_not_signed_by_its_parties_is_not_served"),
    "parties/model_document.py gather open_contract": (
        _UNSIGNED_CONTRACT,
        "tests/test_model_document.py::test_a_run_whose_contract_its_parties_did_not_all_sign_has_no_document"),
    "parties/bank.py BankNode.__init__ open_contract": ("row.contract", _STANDING + "[BankNode]"),
    "parties/bank.py BankNode.__init__ open_contract #2": ("row.contract", _STANDING + "[BankNode of a run]"),
    "parties/platform.py PlatformNode.__init__ open_contract": ("row.contract", _STANDING + "[PlatformNode]"),
    # runs that were under way, or whose end was not heard
    "parties/bank.py BankNode._was_in open_contract": (
        _UNSIGNED_CONTRACT, _CALLS + "test_a_bank_was_in_no_run_whose_kept_contract_lacks_signatures"),
    "parties/bank.py BankNode._end_member open_contract": (
        _UNSIGNED_CONTRACT, _CALLS + "test_a_bank_is_told_no_end_under_a_kept_contract_that_lacks_signatures"),
    "parties/runs_resumed.py taken_up open_contract": (_UNSIGNED_CONTRACT, _GOES_ON),
    "parties/runs_resumed.py tell_ends open_contract": (
        _UNSIGNED_CONTRACT, _CALLS + "test_a_platform_tells_no_end_under_a_kept_contract_that_lacks_signatures"),
    # consents and decisions
    "parties/consent_register.py ConsentRegister.register_firm_keys self.held": (
        _UNHELD % "self.registry()", _HELD + "[register]"),
    "parties/consent_proof.py verify_consent_proof verify_proof": ("None", _UNPROVED),
    "parties/consent_proof.py _state_of snapshot.verify_absent": ("None", _UNPROVED),
    "parties/consent_proof.py _state_of snapshot.verify_present": ("None", _UNPROVED),
    "parties/consent_register.py ConsentRegister.import_lines self.held": (
        _UNHELD % "self.registry()", _HELD + "[import]"),
    "parties/consent_register.py ConsentRegister.revoke self.held": (
        _UNHELD % "self.registry()", _HELD + "[revoke]"),
    "parties/consent_register.py ConsentRegister.snapshot self.held": (
        _UNHELD % "self.registry()", _HELD + "[snapshot]"),
    "parties/consent_register.py ConsentRegister.published self.held": (
        _UNHELD % "self.registry()", _HELD + "[publish]"),
    "parties/consent_register.py ConsentRegister.mark self.held": (_UNHELD % "self.registry()", _HELD + "[mark]"),
    "parties/consent_register.py ConsentRegister.revoke check_revocation": (
        "signed['record']",
        _PARTIES + "test_a_revocation_of_what_is_revoked_already_is_checked_all_the_same"),
    "parties/consent_register.py check_consent verify_record": ("signed['record']", _OTHER_KEY),
    "parties/consent_register.py check_revocation verify_record": ("signed['record']", _OTHER_KEY),
    "parties/consent_signing.py checked_request verify_signed": (
        "signed['record']", _PARTIES + "test_a_firm_signs_no_request_that_its_bank_did_not"),
    "parties/decision.py Judge._without_consent _row_rule": (
        "''",
        _PARTIES + "test_a_row_in_a_mode_that_nobody_knows_has_no_right_even_where_no_consent_is_needed"),
    "parties/decision_consents.py Registry.extended verify_record": (
        "signed['record']", _DECISION + "test_a_registry_with_an_unsigned_change_is_refused_when_verified"),
    "parties/consent_import.py check_line check_signatures": (
        "__import__('lianxin.parties.decision_signers', fromlist=['signers_of']).signers_of(record)",
        _FORGING + "[more fields under the real signature]"),
    "parties/consent_register.py _Intake.take check_registered": (
        "None", _FORGING + "[wrong key, named as signer]"),
    "parties/decision_signers.py verify_record check_registered": ("None", _OTHER_KEY),
    "parties/decision_signers.py verify_record check_gated": (
        "None",
        _DECISION + "test_a_record_that_lacks_what_the_gate_reads_is_refused_though_its_firm_signed_it"),
    "parties/decision_signers.py verify_record check_signatures": ("None", _OTHER_KEY),
    "parties/decision_signers.py check_signatures signing.verify": (
        "None", _DECISION + "test_a_registry_with_an_unsigned_change_is_refused_when_verified"),
    "parties/decision.py decide_field _field_rule": ("''", _NO_RIGHT + "[R20-a prohibited field]"),
    "parties/decision.py decide_release decide_field": (
        "Decision(True, 'OPEN')", _NO_RIGHT + "[R20-a prohibited field]"),
    "parties/decision.py Judge._scope_rule _scope_rule": ("''", _NO_RIGHT + "[R03-a wider mode than the consent's]"),
    "parties/decision.py Judge.decide_firm self._scope_rule": (
        "''", _NO_RIGHT + "[R03-a wider mode than the consent's]"),
    "parties/decision.py decide_firm judge.decide_firm": (
        "Decision(True, 'CONSENT')", _NO_RIGHT + "[R39-a trade secret without consent]"),
    "parties/decision.py decide decide_firm": (
        "Decision(True, 'CONSENT')", _NO_RIGHT + "[R39-a trade secret without consent]"),
    "parties/decision.py decide decide_release": (
        "ReleaseDecision(request.fields, (), request.fields)", _NO_RIGHT + "[R20-a prohibited field]"),
    # who may take part
    "parties/platform.py PlatformNode._draft check_institutions": (
        "None", _REGISTER + "test_a_platform_proposes_no_run_with_a_suspended_bank"),
    "parties/query_platform.py QueryDesk._answers check_institution": (
        "None", _REGISTER + "test_a_suspended_bank_is_answered_no_query"),
    "parties/score_platform.py ScoreDesk._answer_request check_institution": (
        "None", _REGISTER + "test_a_suspended_bank_is_given_no_score"),
    # ledgers
    "parties/ledger_witness.py has_cosigned notes.verify_cosignature": ("None", _COSIGNED),
    "parties/ledger_witness.py _note_head notes.verify": ("None", _COSIGNED),
    "parties/ledger_witness.py Witness.cosign head_of": ("notes.parse_checkpoint(note_of(record).text)", _COSIGNED),
    "parties/ledger_witness.py Witness.keep head_of": (
        "Checkpoint('', record['record']['size'], bytes.fromhex(record['record']['root']))",
        _PARTIES + "test_a_head_in_the_old_form_is_its_partys_or_none"),
    "parties/ledger.py Ledger._checked_last self._keys.head_of": (
        "notes.parse_checkpoint(note_of(record).text)",
        "tests/test_ledger.py::test_a_checkpoint_of_another_key_does_not_open_the_ledger[sqlite]"),
    "parties/ledger_witness.py head_of signing.verify_signed": (
        "record['record']", _PARTIES + "test_a_head_in_the_old_form_is_its_partys_or_none"),
    "parties/ledger_witness.py Witness.cosign merkle.verify_consistency": (
        "None", _PARTIES + "test_a_witness_cosigns_no_head_that_its_proof_does_not_join_to_the_last"),
    "parties/ledger_keys.py LedgerKeys.head_of head_of": ("Checkpoint('', 1, b'')", _UNKNOWN_HEAD),
    "parties/ledger_keys.py LedgerKeys.head_of head_of #2": ("Checkpoint('', 1, b'')", _UNKNOWN_HEAD),
    "parties/doctor_node.py _head keys.head_of": (
        "__import__('lianxin.crypto.notes', fromlist=['parse_checkpoint']).parse_checkpoint("
        "__import__('lianxin.parties.ledger_witness', fromlist=['note_of']).note_of(canonical.decode_fragment(data)).text)",
        _NODES + "test_the_doctor_finds_no_ledger_sound_that_another_key_signed"),
    "parties/store_copy.py check_ledger keys.head_of": (
        "__import__('types').SimpleNamespace(size=0, root=tree.root(0))",
        _NODES + "test_no_copy_holds_whose_ledger_another_key_signed"),
    "parties/store_restore.py _verified verify_signed": ("signed['record']", _FOREIGN_BACKUP),
    "parties/store_restore.py _verified verify_signed #2": ("signed['record']", _FOREIGN_BACKUP),
    # peers that were introduced anew, and what a node keeps or ends by a contract
    "parties/identity_chain.py verify_introduced signing.verify_signed": (
        "record", _NODES + "test_an_introduction_is_signed_by_the_key_that_it_names"),
    "parties/identity_chain.py read_introduced verify_introduced": (
        _INTRODUCED % "canonical.decode_fragment(read_bytes(path))",
        _NODES + "test_no_introduction_is_read_from_the_folder_that_its_key_did_not_sign"),
    "parties/rotating.py accept_peer verify_introduced": (
        _INTRODUCED % "signed",
        _NODES + "test_an_introduction_that_its_key_did_not_sign_is_refused_before_the_folder_is_touched"),
    "parties/key_rotation.py contracts_under_way open_contract": (
        _UNSIGNED_CONTRACT, _NODES + "test_a_contract_that_lacks_signatures_keeps_no_retired_key"),
    "parties/peer_trust.py end_kept open_contract": (
        _UNSIGNED_CONTRACT, _NODES + "test_a_contract_that_lacks_signatures_is_not_ended_as_a_revoked_peers"),
    # runs that wait or go on, disks and tables
    "parties/platform_turns.py RunTurns._take_turn self._check_turn": (
        "None", _NODES + "test_a_run_that_waited_when_its_node_was_stopped_is_not_begun"),
    "parties/platform_turns.py RunTurns.resume open_contract": (_UNSIGNED_CONTRACT, _RESUMED),
    "parties/platform_turns.py RunTurns.resume open_contract #2": ("None", _RESUMED),
    "parties/runs_resumed.py take_up check_institutions": (
        "None", _NODES + "test_a_run_that_was_left_is_not_taken_up_with_a_bank_that_may_take_part_no_more"),
    "parties/trace.py LedgerTrace.crossed self.disk.charge": (
        "None", _NODES + "test_what_there_is_no_room_for_is_not_written"),
    "parties/records_source.py _blocks _check_header": (
        "None", "tests/test_tables_sources.py::test_a_million_columns_are_refused_by_a_part_of_the_header"),
}  # fmt: skip
