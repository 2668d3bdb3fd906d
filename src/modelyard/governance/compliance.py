"""Controls of regulations: what events prove of each, what people state, and how many have evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from modelyard.core.area import Area
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.evidence import Evidence, EvidenceStatus
from modelyard.core.ids import new_id
from modelyard.core.instants import Instant, as_utc, micros
from modelyard.core.operations import operation
from modelyard.core.people import checked_person
from modelyard.core.work import Work
from modelyard.governance import facts, rules, store
from modelyard.governance.controls import Framework, load_framework
from modelyard.governance.values import Attestation, ComplianceFramework, ComplianceReport, Node

UNNAMED = "unnamed caller"


class Compliance(Area):
    """Shows the evidence for each control of a framework, and takes people's statements on them."""

    @operation("POST", "/governance/models/{model_id}/compliance", needs="governance.write")
    async def assess_compliance(
        self,
        model_id: str,
        framework: ComplianceFramework,
        model_metadata: Mapping[str, Any] | None = None,
        compliance_checks: Mapping[str, bool] | None = None,
        *,
        user: str = UNNAMED,
    ) -> ComplianceReport:
        """How many of a framework's controls have evidence, control by control.

        `compliance_checks` maps a control's name (`right_to_erasure`) to the caller's own yes or no; each is kept as
        a statement by `user`, and a no outweighs proof. Invalid for a name that no control has.

        >>> import asyncio
        >>> from modelyard.governance import ComplianceFramework, GovernanceManager
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> call = gov.assess_compliance("fraud_detector", ComplianceFramework.GDPR, {}, {"data_portability": True})
        >>> asyncio.run(call).requirements_passed
        ('data_portability',)
        """
        which = ComplianceFramework.parse(framework)
        known = load_framework(which)
        checks = {known.control(name).id: (name, answer) for name, answer in (compliance_checks or {}).items()}
        with facts.writing(self.store, user) as work:
            model = facts.model(work.rows, model_id)
            expires = work.now + timedelta(days=known.attestation_days)
            for control, (name, answer) in checks.items():
                if not isinstance(answer, bool):
                    raise Invalid(f"The check {name!r} is {answer!r}. Answer each check with true or false.")
                said = f"answered {'yes' if answer else 'no'} to the check {name} of an assessment"
                says = rules.MET if answer else rules.UNMET
                _state(work, model, known, control, says, statement=said, expires=expires)
            rows = rules.evidence_table(known, facts.gather(work.rows, model, known), work.now)
            return _kept(work, model, which, rows, dict(model_metadata or {}))

    @operation("GET", "/governance/models/{model_id}/controls/{framework}", needs="governance.read")
    def controls(self, model_id: str, framework: ComplianceFramework) -> list[Evidence]:
        """The evidence for each control of a framework: proved, attested, missing or not applicable.

        A proved row names its newest event and that event's digest (SHA-256 of its canonical JSON).

        >>> from modelyard.governance import ComplianceFramework, GovernanceManager
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> {row.status.value for row in gov.controls("fraud_detector", ComplianceFramework.GDPR)}
        {'missing'}
        """
        known = load_framework(ComplianceFramework.parse(framework))
        with facts.reading(self.store) as rows:
            found = facts.gather(rows, facts.model(rows, model_id), known)
        return list(rules.evidence_table(known, found, self.store.clock.now()))

    @operation("POST", "/governance/models/{model_id}/attestations", needs="governance.write")
    def attest(
        self,
        model_id: str,
        framework: ComplianceFramework,
        control: str,
        *,
        statement: str,
        attested_by: str,
        expires: Instant | None = None,
    ) -> Attestation:
        """A named person's statement that a control is met, until it expires (unless given, after the framework's term).

        >>> from modelyard.governance import ComplianceFramework, GovernanceManager
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> said = "Deletion job erases features within a day; models are retrained weekly."
        >>> gov.attest("fraud_detector", ComplianceFramework.GDPR, "right_to_erasure", statement=said,
        ...            attested_by="dpo@company.com").says
        'met'
        """
        return self._stated(
            model_id, framework, control, rules.MET, statement=statement, attested_by=attested_by, expires=expires
        )

    @operation("POST", "/governance/models/{model_id}/exemptions", needs="governance.write")
    def exempt(
        self,
        model_id: str,
        framework: ComplianceFramework,
        control: str,
        *,
        statement: str,
        attested_by: str,
        expires: Instant | None = None,
    ) -> Attestation:
        """A named person's statement that a control does not apply to a model version, and why.

        >>> from modelyard.governance import ComplianceFramework, GovernanceManager
        >>> gov = GovernanceManager(folder); _ = gov.register_model("fraud_detector", "v1.0.0")
        >>> gov.exempt("fraud_detector", ComplianceFramework.GDPR, "consent_management",
        ...            statement="Rests on a contract, Art. 6(1)(b).", attested_by="dpo@company.com").says
        'not applicable'
        """
        says = rules.NOT_APPLICABLE
        return self._stated(
            model_id, framework, control, says, statement=statement, attested_by=attested_by, expires=expires
        )

    def _stated(
        self,
        model_id: str,
        framework: ComplianceFramework,
        control: str,
        says: str,
        *,
        statement: str,
        attested_by: str,
        expires: Instant | None,
    ) -> Attestation:
        known = load_framework(ComplianceFramework.parse(framework))
        name = known.control(control).id
        checked_person(attested_by, "attested_by")
        with facts.writing(self.store, attested_by) as work:
            model = facts.model(work.rows, model_id)
            until = work.now + timedelta(days=known.attestation_days) if expires is None else _moment(expires)
            return _state(work, model, known, name, says, statement=statement, expires=until)


def _moment(expires: Instant) -> Instant:
    """The moment in UTC; a time without a zone is a local one, as at the command line."""
    if not isinstance(expires, datetime):
        raise Invalid(f"expires is {expires!r:.80}. Pass a datetime.")
    return as_utc(expires)


def _state(
    work: Work, model: Node, framework: Framework, control: str, says: str, *, statement: str, expires: Instant
) -> Attestation:
    """Keep what the person who acts states about a control."""
    if not statement.strip():
        raise Invalid("A statement needs words. Say how the control is met, or why it does not apply.")
    if expires <= work.now:
        raise Invalid(f"The statement would have expired on {expires:%Y-%m-%d}. Pass a later date.")
    told: dict[str, Any] = {
        "framework": framework.id,
        "control": control,
        "says": says,
        "statement": statement,
        "attested_by": work.actor,
        "expires": expires,
    }
    details = {"model": model.name, "version": model.version, **told}
    event = work.emit(EventType.CONTROL_ATTESTED, model.resource, details)
    stated = Attestation(model=model.reference, attested_at=work.now, event_id=event.event_id, **told)
    store.add_attestation(work.rows, stated)
    return stated


def _kept(
    work: Work, model: Node, which: ComplianceFramework, evidence: Sequence[Evidence], metadata: Mapping[str, Any]
) -> ComplianceReport:
    """Keep an assessment of a framework's controls, with its event."""
    backed = (EvidenceStatus.PROVED, EvidenceStatus.ATTESTED)
    made = ComplianceReport(
        assessment_id=new_id("asm"),
        model=model.reference,
        framework=which,
        compliance_score=rules.score(evidence),
        requirements_passed=tuple(row.control for row in evidence if row.status in backed),
        requirements_failed=tuple(row.control for row in evidence if row.status is EvidenceStatus.MISSING),
        evidence=tuple(evidence),
        model_metadata=metadata,
        assessed_at=work.now,
        assessed_by=work.actor,
    )
    store.add_compliance(
        work.rows,
        {
            "assessment_id": made.assessment_id,
            "model": made.model,
            "framework": which.value,
            "assessed_at": micros(work.now),
            "report": dumps(made),
        },
    )
    counts = {status.value: sum(row.status is status for row in evidence) for status in EvidenceStatus}
    told = {"model": model.name, "version": model.version, "framework": which, "assessment_id": made.assessment_id}
    work.emit(
        EventType.COMPLIANCE_ASSESSED,
        model.resource,
        {**told, "score": made.compliance_score, "controls": counts, "failed": made.requirements_failed},
    )
    return made
